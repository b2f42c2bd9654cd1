"""The one interface between the protocol and whatever generates text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from hpcmaf.errors import EngineError
from hpcmaf.files.yaml import Strict, added
from hpcmaf.models.chat import Message


class Sampling(Strict):
    """How tokens are drawn (paper: temperature 1, top-p 0.9, 2048 new tokens)."""

    temperature: float = Field(1.0, ge=0.0, le=10.0, description="0 is greedy decoding")
    top_p: float = Field(0.9, gt=0.0, le=1.0, description="the nucleus' probability mass")
    max_new_tokens: int = Field(2048, ge=1)
    top_k: int = Field(0, ge=0, description="only so many most likely tokens are drawn from; 0 is all")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="least share of the likeliest token's probability")
    repetition_penalty: float = Field(1.0, gt=0.0, le=10.0, description="above 1: used tokens become less likely")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], max_length=16, description="texts that end a response, which does not show them"
    )
    thinking_tokens: int = added(
        0, "a thought longer than so many tokens is closed, and the answer follows; 0 is no limit", ge=0
    )

    @model_validator(mode="after")
    def _room_to_answer(self) -> Sampling:
        if self.thinking_tokens >= self.max_new_tokens:
            raise ValueError("thinking_tokens leaves no room for an answer; set it below max_new_tokens")
        return self

    @property
    def further(self) -> dict[str, Any]:
        """Settings beyond the first three that are not at their defaults, by the names that vLLM has for them."""
        found = self.model_dump(exclude={"temperature", "top_p", "max_new_tokens"}, exclude_defaults=True)
        return {{"thinking_tokens": "thinking_token_budget"}.get(name, name): value for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be made.

    Attributes
    ----------
    key
        Unique within a stage, e.g. ``"gsm8k-00012/r2/answer/0"``.
    messages
        The chat so far, ending with a user turn.
    model
        Name of the agent's own model (``"critic-0"``); ``None`` is the base.
    seed
        The draw depends on this and the model alone, not on the batch.
    logprobs
        Whether to return log-likelihoods. Such a request may end with an
        assistant turn: then its tokens are scored and nothing is generated.
    begun
        Tokens that the response begins with; the completion has them too.
    """

    key: str
    messages: tuple[Message, ...]
    model: str | None
    seed: int
    sampling: Sampling
    logprobs: bool = False
    begun: tuple[int, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether its last turn is scored, rather than answered."""
        return self.logprobs and self.messages[-1]["role"] == "assistant"


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back: text without special tokens, its ids, and the counts.

    Attributes
    ----------
    logprobs
        Natural log-likelihood of each generated token, under the model as it
        is (temperature 1, whole vocabulary); ``None`` unless requested.
    prompt_logprobs
        Of each prompt token but the first, given those before it.
    counted
        Tokens generated, where a server gives their number and not their ids.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]
    logprobs: tuple[float, ...] | None = None
    prompt_logprobs: tuple[float, ...] | None = None
    counted: int = 0

    @property
    def completion_tokens(self) -> int:
        """Tokens generated, the end-of-turn token included."""
        return self.counted or len(self.token_ids)


class Engine(Protocol):
    """Turns requests into completions; may batch as it likes.

    ``complete`` may be awaited by thousands of coroutines at once. What it returns depends on the request alone.
    """

    async def complete(self, request: Request) -> Completion:
        """Generate one completion."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModels:
    """What an engine serves: one base and the agents' own models.

    Attributes
    ----------
    base
        Folder or hub id of the base model.
    name
        What the recipe calls it; the end of ``base`` if empty.
    tuning
        ``"lora"``: ``agents`` are PEFT adapters on the base; ``"full"``: each is a whole checkpoint.
    agents
        Agent name to folder; empty before the first iteration.
    chat
        How chats are rendered: keyword arguments of ``ChatFormat``.
    copies
        Agents that speak with this base itself, where a society has several.
    """

    base: str
    tuning: Literal["lora", "full"]
    agents: Mapping[str, str]
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    chat: Mapping[str, Any] = field(default_factory=dict)
    copies: tuple[str, ...] = ()
    name: str = ""

    @property
    def source(self) -> dict[str, Any]:
        """Keyword arguments of ``from_pretrained`` for the base."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


class Diverged(EngineError):
    """A model's logits are not numbers."""

    def __init__(self, model: str | None) -> None:
        super().__init__(
            f"model {model or 'base'}: its logits are not numbers, so it has diverged; lower "
            "training.learning_rate, or set model.dtype to bfloat16 or float32, and start a new run"
        )


# Loop turns without a new request after which all debates count as waiting. Waking a debate from a finished batch takes
# four: the request's future, the gather over the agents, the debate's task, its new requests' tasks.
_QUIET_TURNS = 8


async def until_quiet(count: Callable[[], int]) -> None:
    """Wait until every debate waits: a number of requests has not changed for some turns of the loop."""
    quiet, size = 0, -1
    while quiet < _QUIET_TURNS:
        await asyncio.sleep(0)
        quiet, size = (quiet + 1, size) if count() == size else (0, count())
