"""Means with their standard errors, by the paper's rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TypedDict


class Estimate(TypedDict):
    """A mean over problems and its standard error, both as shares of one."""

    value: float
    se: float


def estimate(scores: Iterable[float], scale: int = 1) -> Estimate:
    """Mean and standard error of one score per problem.

    Sums are exact, so the result does not depend on the order of the
    problems, not even in its last digit.

    Parameters
    ----------
    scores
        n numbers, one per problem: 0 or 1, a share, or how many of ``scale``
        agents were right. Counting agents *per problem* keeps the error
        honest: agents answering one problem are not independent.
    scale
        What counts as a full score.

    Returns
    -------
    Estimate
        ``value`` = mean / scale; ``se`` = population standard deviation
        (ddof 0) / sqrt(n) / scale, the rule of the paper's tables.

    Raises
    ------
    ValueError
        There is no score.
    """
    scores = list(scores)
    mean, deviation = statistics.mean(scores), statistics.pstdev(scores)
    return Estimate(value=mean / scale, se=deviation / math.sqrt(len(scores)) / scale)


class Ratio(TypedDict):
    """How often something happened among its opportunities.

    ``value`` and ``se`` are ``None`` where there was no opportunity.
    """

    value: float | None
    se: float | None
    count: int
    of: int


def ratio(counts: Sequence[int], opportunities: Sequence[int]) -> Ratio:
    """Share of opportunities taken, with an error taken over problems.

    Agents that answer one problem are not independent, so the problem is the
    unit: se = sqrt(sum (c_i - r o_i)^2) / sum o_i, the linearised error of a
    ratio of sums. With one opportunity per problem it is the paper's rule.

    Parameters
    ----------
    counts, opportunities
        Per problem: how often it happened, how often it could have.
    """
    count, of = sum(counts), sum(opportunities)
    if not of:
        return Ratio(value=None, se=None, count=0, of=0)
    value = count / of
    squares = math.fsum((c - value * o) ** 2 for c, o in zip(counts, opportunities, strict=True))
    return Ratio(value=value, se=math.sqrt(squares) / of, count=count, of=of)
