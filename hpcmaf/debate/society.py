"""Who plays which role with which model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

# Name of the model that writes summaries and judges, where it is not the base of the run.
SUMMARIZER = "summarizer"


@dataclass(frozen=True, slots=True)
class Society:
    """N generation agents, N critic agents and the summarizer.

    Each entry is the name of the agent's own model, ``None`` for the base. The summarizer is always a base (paper,
    section 2), if need be another one.
    """

    generators: tuple[str | None, ...]
    critics: tuple[str | None, ...]
    summarizer: str | None = None

    @classmethod
    def of(cls, agents: int, models: Collection[str]) -> Society:
        """Society of N agents in which those named in ``models`` have a model of their own."""
        roles = ([f"{role}-{n}" for n in range(agents)] for role in ("generator", "critic"))
        return cls(*(tuple(name if name in models else None for name in names) for names in roles))

    @property
    def agents(self) -> int:
        """N."""
        return len(self.generators)
