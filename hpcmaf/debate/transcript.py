"""What one debate leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpcmaf.chat import Message
from hpcmaf.tasks.base import Problem


@dataclass(frozen=True, slots=True)
class Utterance:
    """One completion of a debate, with the user message it answered.

    Attributes
    ----------
    round
        1-based; summaries carry the round whose answers *read* them (>= 2).
    agent
        0-based.
    prompt
        The last user message before it; earlier turns are the agent's own
        earlier utterances.
    answer
        The extracted answer; ``None`` where none could be parsed, and for
        summaries.
    prompt_tokens, completion_tokens
        As the engine counted them, special tokens included.
    finish_reason
        ``"length"`` where the limit on tokens cut it off; ``"unknown"`` of
        imported debates, which count as finished.
    """

    kind: Literal["answer", "summary"]
    round: int
    agent: int
    prompt: str
    text: str
    answer: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: Literal["stop", "length", "unknown"] = "stop"

    @property
    def cut_off(self) -> bool:
        """Whether it ended at the limit on tokens, in the middle of what it had to say."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Transcript:
    """One problem's whole debate.

    Attributes
    ----------
    answers
        ``answers[m - 1][n]`` is agent n's answer in round m.
    summaries
        ``summaries[m - 2][n]`` is what agent n read before round m; empty for
        methods without summaries and for imported debates.
    """

    problem: Problem
    answers: tuple[tuple[Utterance, ...], ...]
    summaries: tuple[tuple[Utterance, ...], ...] = ()

    @property
    def rounds(self) -> int:
        """M, the number of rounds."""
        return len(self.answers)

    @property
    def agents(self) -> int:
        """N, the number of agents."""
        return len(self.answers[0])

    def conversation(self, agent: int, last_round: int) -> list[Message]:
        """Agent's chat up to and including its answer in ``last_round``."""
        messages: list[Message] = []
        for turns in self.answers[:last_round]:
            messages.append({"role": "user", "content": turns[agent].prompt})
            messages.append({"role": "assistant", "content": turns[agent].text})
        return messages
