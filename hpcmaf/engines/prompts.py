"""From chats to tokens and back, as every engine of a model does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig

from hpcmaf.engines.base import Completion, Request, ServedModels
from hpcmaf.engines.basemodel import load
from hpcmaf.engines.chat import ChatFormat


class Prompts:
    """A model's chat format, context (tokens of prompt and answer) and stop tokens; loads no weights."""

    def __init__(self, served: ServedModels) -> None:
        self.chat = ChatFormat.from_pretrained(
            served.base, revision=served.revision, trust_remote_code=served.trust_remote_code, **served.chat
        )
        config = load(AutoConfig, served, served.base).get_text_config()
        self.context: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.stop_ids = list(self.chat.stop_ids)

    def ids(self, request: Request) -> list[int]:
        """Tokens a request gives its model: those to answer, or those to score."""
        if request.scored:
            return self.chat.sample(request.messages).input_ids
        return [*self.chat.prompt_ids(request.messages), *request.begun]

    def ended(self, request: Request, tokens: Sequence[int]) -> bool:
        """Whether a response has come to a text that ends it."""
        stop = request.sampling.stop
        return bool(stop) and _first(stop, self.chat.decode([*request.begun, *tokens])) is not None

    def completion(self, request: Request, prompt: int, tokens: Sequence[int], **logprobs: Any) -> Completion:
        """The completion that tokens make, behind a prompt of some tokens."""
        tokens, prompt = [*request.begun, *tokens], prompt - len(request.begun)
        text = self.chat.decode(tokens)
        end = _first(request.sampling.stop, text)
        reason = "stop" if end is not None or (tokens and tokens[-1] in self.stop_ids) else "length"
        return Completion(text[:end], tuple(tokens), prompt, reason, **logprobs)


def _first(stop: Sequence[str], text: str) -> int | None:
    """Where the first of some texts begins in another."""
    return min((text.index(end) for end in stop if end in text), default=None)
