"""Debates made up from their answers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.tasks.problems import Problem


@pytest.fixture
def debate() -> Callable[..., Transcript]:
    """``debate(id, gold, round 1's answers, round 2's answers, ...)``; ``None`` is an unparsable answer."""

    def make(problem_id: str, gold: str | None, *rounds: Sequence[str | None]) -> Transcript:
        return Transcript(
            Problem(problem_id, f"What is {problem_id}?", gold),
            tuple(
                tuple(
                    Utterance("answer", m, agent, "?", "no answer" if answer is None else answer, answer)
                    for agent, answer in enumerate(answers)
                )
                for m, answers in enumerate(rounds, start=1)
            ),
        )

    return make
