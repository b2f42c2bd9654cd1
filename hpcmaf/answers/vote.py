"""The majority vote that labels a debate (paper, section 2: y^)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcmaf.answers.equal import equivalent


@dataclass(frozen=True, slots=True)
class Vote:
    """Outcome of one vote among N agents.

    Attributes
    ----------
    answer
        The winning class's representative, ``None`` if no answer was parsable.
    agrees
        ``agrees[n]``: agent n's answer is of the winning class.
    votes
        Size of the winning class.
    tied
        Whether the winner was drawn among classes of equal size.
    """

    answer: str | None
    agrees: tuple[bool, ...]
    votes: int
    tied: bool


def vote(
    answers: Sequence[str | None],
    seed: int,
    *,
    weights: Sequence[float] = (),
    same: Callable[[str, str], bool] | None = None,
) -> Vote:
    """Elect the largest class of equivalent answers.

    The order of the agents changes nothing: distinct answers are sorted, and each is compared with every class's
    representative.

    Parameters
    ----------
    answers
        One per agent; ``None``, blank answers and NaN never vote.
    seed
        Decides between classes of equal size, uniformly.
    weights
        Of the agents; a class weighs what those who gave it do. Alike if empty.
    same
        Whether two answers are one; :func:`equivalent` by default.
    """
    same = same or equivalent
    classes: dict[str, set[str]] = {}
    # What is not even equivalent to itself (blank, NaN) is no candidate.
    candidates = {answer for answer in answers if answer is not None and same(answer, answer)}
    # The shortest string of a class stands for it: the plainest way to write the answer.
    for answer in sorted(candidates, key=lambda candidate: (len(candidate), candidate)):
        shortest = next((one for one in classes if same(answer, one)), answer)
        classes.setdefault(shortest, set()).add(answer)
    if not classes:
        return Vote(None, (False,) * len(answers), 0, False)
    weighed = list(zip(answers, weights or (1,) * len(answers), strict=True))
    sizes = [sum(weight for answer, weight in weighed if answer in members) for members in classes.values()]
    leaders = [one for one, size in zip(classes, sizes, strict=True) if size == max(sizes)]
    winner = leaders[random.Random(seed).randrange(len(leaders))]
    agrees = tuple(answer in classes[winner] for answer in answers)
    return Vote(winner, agrees, sum(agrees), len(leaders) > 1)
