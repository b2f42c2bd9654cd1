"""pass@k and majority@k from N answers to a problem, by unbiased estimators."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

from hpcmaf.answers import vote

# More subsets than this are sampled instead of counted.
_MOST_SUBSETS = 2000
_DRAWS = 500


def pass_at_k(answers: int, right: int, k: int) -> float:
    """Chance that k of the answers, drawn without replacement, hold a right one.

    1 - C(N - c, k) / C(N, k): the unbiased estimator of pass@k (Chen et al.,
    2021, arXiv 2107.03374).

    Parameters
    ----------
    answers, right
        N and c.
    k
        At most N.
    """
    if not 0 <= right <= answers or not 1 <= k <= answers:
        raise ValueError(f"pass@{k} of {answers} answers, {right} of them right: impossible")
    return 1 - math.comb(answers - right, k) / math.comb(answers, k)


def answer_classes(answers: Sequence[str | None]) -> tuple[int, ...]:
    """Which class of equivalent answers each one is of, as the vote sees them.

    Returns
    -------
    tuple
        N numbers from 0, larger classes first; -1 for an answer that does not
        vote.
    """
    classes = [-1] * len(answers)
    left = list(answers)
    number = 0
    while (winner := vote(left, 0)).answer is not None:
        for position, agrees in enumerate(winner.agrees):
            if agrees:
                classes[position], left[position] = number, None
        number += 1
    return tuple(classes)


@lru_cache(maxsize=1 << 14)
def majority_at_k(classes: tuple[int, ...], right: int, k: int) -> float:
    """Chance that the vote of k of the answers, drawn without replacement, is right.

    All subsets are counted, a tie at the chance its draw has. Where there are
    too many, 500 of them, drawn with a fixed seed: noisier, and still
    unbiased.

    Parameters
    ----------
    classes
        Class of each of the N answers; -1 for one that does not vote.
    right
        The class of right answers; -1 if no agent is right.
    k
        At most N.
    """
    if not 1 <= k <= len(classes):
        raise ValueError(f"majority@{k} of {len(classes)} answers: impossible")
    if right < 0:
        return 0.0
    if math.comb(len(classes), k) <= _MOST_SUBSETS:
        chances = [_chance(subset, right) for subset in combinations(classes, k)]
    else:
        draw = random.Random(0)
        chances = [_chance(draw.sample(classes, k), right) for _ in range(_DRAWS)]
    return math.fsum(chances) / len(chances)


def _chance(subset: Sequence[int], right: int) -> float:
    sizes: dict[int, int] = {}
    for one in subset:
        if one >= 0:
            sizes[one] = sizes.get(one, 0) + 1
    most = max(sizes.values(), default=0)
    if sizes.get(right, 0) < most or not most:
        return 0.0
    return 1 / sum(size == most for size in sizes.values())


def curve_points(agents: int) -> list[int]:
    """The k of a curve: all up to 16, then doubling, and N."""
    return [*range(1, min(agents, 16) + 1), *(k for k in (32, 64, 128, 256, 512) if k < agents)] + (
        [agents] if agents > 16 else []
    )
