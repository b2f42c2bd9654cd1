"""Which requests an engine takes next and when, and whose adapter is worth folding in.

vLLM takes requests in the order in which they come, agents mixed, and as soon
as a place is empty. Answers of uneven lengths empty one in nearly every step,
so that nearly every step would read a prompt, and only steps without any run
as one recorded graph: the others have the machine launch every kernel by
itself, which takes longer than fewer bits take to compute. So prompts are taken
together, every few steps.

Taken agent by agent, a step is mostly one's, which is what folding needs; and
taken only while the cache has room for their answers too, none is thrown out
again half made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hpcmaf.engines.vllm_messages import Made, Row

# Beyond a full step, so that a place that falls empty is taken in the next.
_AHEAD = 16
# Before anything is known of an agent's answers.
_GUESS = 256
# Folding moves all weights, which costs as much as so many tokens.
_FOLD_TOKENS = 15_000
_DECAY = 0.98


class Admission:
    """Requests that wait for one engine, by agent.

    Parameters
    ----------
    seats
        Requests in one step.
    tokens
        Tokens that the cache holds.
    by_agent
        Whether an agent has its turn until there is nothing left of it;
        otherwise the order is that of arrival.
    every
        Steps from one that takes requests to the next.

    Attributes
    ----------
    current
        Agent that is, or is about to be, folded in.
    """

    def __init__(self, seats: int, tokens: int, by_agent: bool = True, every: int = 1) -> None:
        # What is handed over early, vLLM takes when it likes.
        self.places = seats + (_AHEAD if every == 1 else 0)
        self.tokens = tokens
        self.by_agent = by_agent
        self.every = every
        self._steps = 0
        self.current: str | None = None
        self._turn: str | None = None
        # By agent; all in one where the order is that of arrival.
        self._waiting: dict[str | None, deque[Row]] = {}
        # Tokens of the prompts that wait, and tokens expected of all that is held, by agent.
        self._prompts: dict[str | None, int] = {}
        self._holds: dict[str | None, int] = {}
        self._held: dict[int, tuple[str | None, int]] = {}
        self._answers: dict[str | None, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, rows: Iterable[Row]) -> None:
        """Have requests wait."""
        for row in rows:
            line = row.model if self.by_agent else None
            self._waiting.setdefault(line, deque()).append(row)
            self._prompts[line] = self._prompts.get(line, 0) + len(row.prompt)

    def admit(self) -> list[Row]:
        """Take what has room now, if it is time; to be called before every step.

        An engine with nothing to do does not wait.
        """
        taken: list[Row] = []
        self._steps += 1
        if self._held and self._steps % self.every:
            return taken
        used = sum(self._holds.values())
        while any(self._waiting.values()) and len(self._held) < self.places:
            line = self._turn = self._next()
            row = self._waiting[line][0]
            expected = self._expected(row)
            if self._held and used + expected > self.tokens:
                break
            self._waiting[line].popleft()
            self._prompts[line] -= len(row.prompt)
            self._held[row.id] = (row.model, expected)
            self._holds[row.model] = self._holds.get(row.model, 0) + expected
            used += expected
            taken.append(row)
        return taken

    def finished(self, made: Iterable[Made]) -> None:
        """Give up the room of requests that are done."""
        for one in made:
            agent, expected = self._held.pop(one.id)
            self._holds[agent] -= expected
            before = self._answers.get(agent, float(len(one.token_ids)))
            self._answers[agent] = _DECAY * before + (1 - _DECAY) * len(one.token_ids)

    def worth_folding(self) -> str | None:
        """The agent that should be folded in now; the present one if no other is worth the change."""
        # A request in progress has its prompt behind it, and about half of its answer.
        work = {agent: tokens / 4 for agent, tokens in self._holds.items()}
        for agent, rows in self._waiting.items():
            work[agent] = work.get(agent, 0) + self._prompts[agent] + len(rows) * self._answers.get(agent, _GUESS)
        best = max(work, key=lambda agent: work[agent], default=self.current)
        if best != self.current and work[best] > 2 * work.get(self.current, 0) + _FOLD_TOKENS:
            self.current = best
        return self.current

    def _next(self) -> str | None:
        for agent in (self._turn, self.current):
            if self._waiting.get(agent):
                return agent
        # Whoever has most to do: steps are one agent's for longest.
        return max((a for a, rows in self._waiting.items() if rows), key=lambda agent: len(self._waiting[agent]))

    def _expected(self, row: Row) -> int:
        answer = self._answers.get(row.model, _GUESS)
        return len(row.prompt) + min(row.tokens, round(1.1 * answer) + 1)
