"""One rendering of chats for generation and training alike.

The released code of the paper trains with one chat template and generates
with another, and doubles the BOS token. Here both sides call the same two
functions, so the tokens a model is trained on are those it sees when asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypedDict

from hpcmaf.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For base models that bring no template of their own. Turns begin on a line of
# their own, so a turn's tokens do not depend on whether it was just generated;
# line breaks are written as strings, since jinja drops those behind its tags.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}:{{ '\n' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
)
_PROBE = "\u2042probe\u2042"


class Message(TypedDict):
    """One turn of a chat, in the form chat templates read."""

    role: Literal["user", "assistant", "system"]
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One training text.

    Attributes
    ----------
    input_ids
        Whole text, length T.
    target
        Length T; True where the loss is taken.
    """

    input_ids: list[int]
    target: list[bool]


class ChatFormat:
    """A tokenizer's chat template, read once for both uses.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer. One without a chat template gets a plain one.

    Raises
    ------
    EngineError
        The template cannot render a user and an assistant turn, or the
        tokenizer has no token to end a turn with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.template: str | None = None if tokenizer.chat_template else PLAIN_TEMPLATE

    @classmethod
    def from_pretrained(cls, path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> ChatFormat:
        """Load a tokenizer by folder or hub id.

        Raises
        ------
        EngineError
            There is none, or it is damaged.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        except Exception as error:  # whatever the many kinds of tokenizers raise
            reason = " ".join(str(error).split())[:300]
            raise EngineError(
                f"model {path}: its tokenizer cannot be loaded ({reason}); check model.path and the files there"
            ) from error
        return cls(tokenizer)

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.template, add_generation_prompt=generation, tokenize=False
            )
        except Exception as error:  # jinja raises whatever the template's author chose
            raise EngineError(
                f"{self.tokenizer.name_or_path}: its chat template refuses a debate's turns ({error}); "
                "use a model whose template takes alternating user and assistant messages"
            ) from error

    def _plain_ids(self, text: str) -> list[int]:
        return self.tokenizer(_encodable(text), add_special_tokens=False)["input_ids"]

    def _encode(self, text: str) -> list[int]:
        # The template writes its own special tokens; adding them here would
        # double the BOS.
        ids = self._plain_ids(text)
        bos = self.tokenizer.bos_token_id
        # A template that writes no BOS for a tokenizer that normally does.
        if bos is not None and (not ids or ids[0] != bos) and self._adds_bos:
            ids = [bos, *ids]
        return ids

    @cached_property
    def _adds_bos(self) -> bool:
        return self.tokenizer("x")["input_ids"][:1] == [self.tokenizer.bos_token_id]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens a model sees when it is to answer ``messages``."""
        return self._encode(self._render(messages, True))

    @cached_property
    def end_of_turn(self) -> tuple[int, ...]:
        """Tokens that the template puts behind an assistant turn, up to the first special one.

        These are what generation stops at, so they are trained as part of
        the target.
        """
        turn: list[Message] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
        suffix = self._render(turn, False).rsplit(_PROBE, 1)[1]
        ids = self.tokenizer(suffix, add_special_tokens=False)["input_ids"]
        special = set(self.tokenizer.all_special_ids)
        for position, token in enumerate(ids):
            if token in special:
                return tuple(ids[: position + 1])
        if self.tokenizer.eos_token_id is None:
            raise EngineError(
                f"{self.tokenizer.name_or_path}: neither its chat template nor its tokenizer ends a turn; set eos_token"
            )
        return (self.tokenizer.eos_token_id,)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids at which generation stops."""
        ids = {self.end_of_turn[-1]}
        if self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        return tuple(sorted(ids))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, special tokens dropped."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def sample(self, messages: Sequence[Message], loss_on: Literal["last_turn", "all_turns"] = "last_turn") -> Sample:
        """Render a chat for training.

        Each trained assistant turn is exactly ``prompt_ids`` of the turns
        before it, then the turn's own tokens, then the end of turn. With
        ``all_turns`` earlier assistant turns count too, as in the released
        code.

        Parameters
        ----------
        messages
            Alternating user and assistant turns, ending with the assistant.
        loss_on
            Which assistant turns carry loss.

        Raises
        ------
        EngineError
            The chat does not end with an assistant turn, or the template does
            not render earlier turns as a prefix of later ones (needed for
            ``all_turns`` only).
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise EngineError("a training sample must end with an assistant turn")
        prompt = self.prompt_ids(messages[:-1])
        answer = self._turn_ids(messages[-1]["content"])
        input_ids = prompt + answer
        target = [False] * len(prompt) + [True] * len(answer)
        if loss_on == "all_turns":
            for position, message in enumerate(messages[:-1]):
                if message["role"] != "assistant":
                    continue
                start = len(self.prompt_ids(messages[:position]))
                turn = self._turn_ids(message["content"])
                if input_ids[start : start + len(turn)] != turn:
                    raise EngineError(
                        f"{self.tokenizer.name_or_path}: its chat template rewrites earlier turns, so loss_on: "
                        "all_turns cannot find them; use loss_on: last_turn"
                    )
                target[start : start + len(turn)] = [True] * len(turn)
        return Sample(input_ids, target)

    def _turn_ids(self, text: str) -> list[int]:
        return self._plain_ids(text) + list(self.end_of_turn)


def _encodable(text: str) -> str:
    """Text with lone surrogates, which no tokenizer takes, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
