"""One rendering of chats for generation and training alike.

The released code of the paper trains with one chat template and generates with another, and doubles the BOS token. Here
both sides call the same two functions, so the tokens a model is trained on are those it is prompted with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from hpcmaf.answers import closing_mark, opened_thought
from hpcmaf.errors import EngineError, brief
from hpcmaf.models.basemodel import load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For base models that bring no template of their own. Turns begin on a line of their own, so a turn's tokens do not
# depend on whether it was just generated; line breaks are written as strings, since jinja drops those behind its tags.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}:{{ '\n' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
)
_PROBE = "\u2042probe\u2042"
# The date that templates get. Not today's: the prompts of a run must not change at midnight.
DATE = "2025-01-01"


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

    What a message says is text, also where it spells a control token: no one ends a turn by writing ``<|im_end|>`` into
    a question. Models read it with a blank in it, ``< |im_end|>``.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer. One without a chat template gets a plain one.
    eos_ids
        Further tokens at which the model ends, as its generation config has them.
    date
        The day, as ``YYYY-MM-DD``, for templates that write one.
    chat_template, chat_template_kwargs
        A template in place of the tokenizer's own, and what it is given
        besides the messages, such as ``enable_thinking``.

    Raises
    ------
    EngineError
        The template cannot render a user and an assistant turn, or the tokenizer has no token to end a turn with.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, eos_ids: Iterable[int] = (), date: str = DATE,
        chat_template: str | None = None, chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer = tokenizer
        self.template = chat_template or (None if tokenizer.chat_template else PLAIN_TEMPLATE)
        self._kwargs = chat_template_kwargs or {}
        self._eos_ids = frozenset(eos_ids)
        self._date = datetime.fromisoformat(date)
        self._named = "model.chat_template" if chat_template else f"{tokenizer.name_or_path}: its chat template"

    @classmethod
    def from_pretrained(
        cls, path: str, *, revision: str | None = None, trust_remote_code: bool = False, **settings: Any
    ) -> ChatFormat:
        """Load a tokenizer by folder or hub id, and the ends that its model's generation config names.

        ``settings`` are those of the class.

        Raises
        ------
        EngineError
            There is none, or it is damaged.
        """
        from transformers import AutoTokenizer, GenerationConfig

        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        tokenizer = load(AutoTokenizer, path, "its tokenizer ", **source)
        try:
            own = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
            ends = [own] if isinstance(own, int) else [int(end) for end in own or ()]
        except Exception as error:
            # A model need not have one.
            there = not isinstance(error, OSError) or error.errno is not None
            if there or Path(path, "generation_config.json").exists():
                reason = f"its generation_config.json cannot be read ({brief(error)})"
                raise EngineError(f"model {path}: {reason}") from error
            ends = []
        return cls(tokenizer, eos_ids=ends, **settings)

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.template, add_generation_prompt=generation, tokenize=False,
                strftime_now=self._date.strftime, **self._kwargs,
            )  # fmt: skip
        except Exception as error:  # jinja raises whatever the template's author chose
            raise EngineError(
                f"{self._named} refuses a debate's turns ({error}); "
                "use one that takes alternating user and assistant messages"
            ) from error

    def _plain_ids(self, text: str) -> list[int]:
        # Lone surrogates, which no tokenizer takes, become U+FFFD.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # The template writes its own special tokens; adding them here would double the BOS.
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _shown(self, text: str) -> str:
        """What a message says, without control tokens."""
        return self._marks.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        """Finds the names of control tokens in a text: special ones, those that end a turn, and the template's own.

        Other added tokens, such as the ``<think>`` of some models, are words that models say.
        """
        added = self.tokenizer.added_tokens_decoder
        roles: tuple[Literal["system", "user", "assistant"], ...] = ("system", "user", "assistant", "user")
        turns = self._without_system([Message(role=role, content=_PROBE) for role in roles])
        written = self._plain_ids(self._render(turns, True).removesuffix(self.thought[0]))
        control = {*self.stop_ids, *written}
        names = {token.content for index, token in added.items() if token.special or index in control}
        names = {name for name in (*names, *self.tokenizer.all_special_tokens) if name.strip()}
        # Longest first, where one begins with another; "(?!)" where there are none finds nothing.
        return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens a model sees when it is to answer ``messages``."""
        turns = self._without_system(messages)
        shown = [Message(role=turn["role"], content=self._shown(turn["content"])) for turn in turns]
        ids, bos = self._plain_ids(self._render(shown, True)), self.tokenizer.bos_token_id
        # A template that writes no BOS for a tokenizer that normally does.
        adds = bos is not None and ids[:1] != [bos] and self.tokenizer("x")["input_ids"][:1] == [bos]
        return [bos, *ids] if adds else ids

    def _without_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the system's joined to the first user turn, where the template has no such role."""
        if len(messages) < 2 or messages[0]["role"] != "system":
            return messages
        first, user, *others = messages
        with suppress(EngineError):
            if _PROBE in self._render([{"role": "system", "content": _PROBE}, {"role": "user", "content": "x"}], True):
                return messages
        return [Message(role="user", content=f"{first['content']}\n\n{user['content']}"), *others]

    @cached_property
    def end_of_turn(self) -> tuple[int, ...]:
        """Tokens that the template puts behind an assistant turn, up to the first that is a control token.

        Generation stops at these, so they are trained as part of the target. A control token is any that was added to
        the vocabulary, since many tokenizers call few of theirs special, or one of the generation config's ends.
        """
        turn: list[Message] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
        _, shown, suffix = self._render(turn, False).rpartition(_PROBE)
        if not shown:
            raise EngineError(f"{self._named} leaves out turns of a debate; use one that shows what every message says")
        ids = self._plain_ids(suffix)
        # Some vocabularies have added runs of line breaks, which end no turn.
        added = {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.content.strip()}
        ends = added | set(self.tokenizer.all_special_ids) | self._eos_ids
        for position, token in enumerate(ids):
            if token in ends:
                return tuple(ids[: position + 1])
        if self.tokenizer.eos_token_id is None:
            raise EngineError(
                f"{self.tokenizer.name_or_path}: neither its chat template nor its tokenizer ends a turn; set eos_token"
            )
        return (self.tokenizer.eos_token_id,)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids at which generation stops."""
        return tuple(sorted({self.end_of_turn[-1], *self._eos_ids, self.tokenizer.eos_token_id} - {None}))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, without its end of turn and special tokens.

        Where the template begins a thought for the model, the text begins with the template's mark.
        """
        ids, end = list(token_ids), self.end_of_turn
        # Not every tokenizer calls its end of turn special.
        if tuple(ids[-len(end) :]) == end:
            del ids[-len(end) :]
        elif ids and ids[-1] in self.stop_ids:
            del ids[-1]
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self.thought[0] + text

    @cached_property
    def thought(self) -> tuple[str, str]:
        """What the template writes to begin a thought, to the prompt's end, and what ends one; or nothing."""
        tail = self._render([{"role": "user", "content": _PROBE}], True).rpartition(_PROBE)[2]
        mark = opened_thought(tail)
        if mark is None:
            return "", ""
        return tail[mark.start() :], f"{closing_mark(mark[0])}\n\n"

    def closing(self, text: str) -> list[int]:
        """Tokens that end the thought that a response is in; none where it is in none."""
        mark = closing_mark(text)
        return self._plain_ids(f"\n{mark}\n\n") if mark else []

    def sample(
        self, messages: Sequence[Message], loss_on: Literal["last_turn", "all_turns"] = "last_turn", *,
        ended: bool = True, opening: int = 0,
    ) -> Sample:  # fmt: skip
        """Render a chat for training.

        It is exactly ``prompt_ids`` of the turns before the last, then the last turn's own tokens, then the end of
        turn. With ``all_turns`` earlier assistant turns count too, as in the released code, in the form in which the
        template shows them to later ones: most often without white space at their ends.

        Parameters
        ----------
        messages
            Alternating user and assistant turns, ending with the assistant.
        loss_on
            Which assistant turns carry loss.
        ended
            Whether the last turn came to its end; one that was cut off does not teach where to end.
        opening
            How many messages stand before the chat proper, such as worked examples; they never carry loss.

        Raises
        ------
        EngineError
            The chat does not end with an assistant turn, or the template shows something else in place of earlier turns
            (with ``all_turns`` only).
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise EngineError("a training sample must end with an assistant turn")
        prompt, text = self.prompt_ids(messages[:-1]), messages[-1]["content"]
        begun, end = self.thought
        # A thought that the prompt begins is gone on with, or ended at once.
        text = text.removeprefix(begun) if text.startswith(begun) else end + text
        answer = self._plain_ids(self._shown(text)) + list(self.end_of_turn if ended else ())
        target = [False] * len(prompt) + [True] * len(answer)
        if loss_on == "all_turns":
            for position, message in enumerate(messages[:-1]):
                if message["role"] == "assistant" and position >= opening:
                    start, stop = self._find_turn(prompt, messages[:position], message["content"])
                    target[start:stop] = [True] * (stop - start)
        return Sample(prompt + answer, target)

    def _find_turn(self, ids: list[int], before: Sequence[Message], text: str) -> tuple[int, int]:
        """Where in a rendered chat an assistant's turn stands, up to and with its end."""
        # The turn's first tokens may have merged with the prompt's last ones, such as line breaks.
        own = self.prompt_ids(before)
        start = next((at for at, (one, other) in enumerate(zip(own, ids, strict=False)) if one != other), len(own))
        end = self.end_of_turn[-1]
        stop = ids.index(end, start) + 1 if end in ids[start:] else start
        said = self._plain_ids(self._shown(text))
        shown, said = (self.tokenizer.decode(some).strip() for some in (ids[start : stop - 1], said))
        if stop == start or shown != said:
            raise EngineError(
                f"{self.tokenizer.name_or_path}: its chat template rewrites earlier turns, so loss_on: "
                "all_turns cannot find them; use loss_on: last_turn"
            )
        return start, stop
