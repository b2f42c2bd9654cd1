"""What the two sides of the link say to each other.

To the engine: ``("add", rows)``, ``("stop",)``. From it:
``("ready", facts)``, ``("done", rows, bytes)``, ``("failed", kind, reason)``,
where the kind is ``"refused"`` (the reason is for the user), ``"memory"`` or
``"crash"``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A request as the engine takes it.

    Attributes
    ----------
    tokens
        Most tokens to generate; 0 scores the prompt and generates nothing.
    """

    id: int
    prompt: list[int]
    model: str | None
    seed: int
    temperature: float
    top_p: float
    tokens: int
    logprobs: bool


@dataclass(frozen=True, slots=True)
class Made:
    """A completion as the engine gives it.

    Attributes
    ----------
    reused
        Prompt tokens that were found in the prefix cache.
    """

    id: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    prompt_logprobs: tuple[float, ...] | None
    reused: int = 0
