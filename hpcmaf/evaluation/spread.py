"""Means with their standard errors, by the paper's rule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict


class Estimate(TypedDict):
    """A mean over problems and its standard error, both as shares of one."""

    value: float
    se: float


def estimate(scores: Iterable[int], scale: int = 1) -> Estimate:
    """Mean and standard error of one score per problem.

    Sums are kept as whole numbers, so the result does not depend on the order
    of the problems, not even in its last digit.

    Parameters
    ----------
    scores
        n whole numbers, one per problem: 0 or 1, or how many of ``scale``
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
    count = total = squares = 0
    for one in scores:
        count += 1
        total += one
        squares += one * one
    if not count:
        raise ValueError("no scores to average")
    # std = sqrt(n * sum(x^2) - sum(x)^2) / n, without cancellation.
    spread = math.sqrt(count * squares - total * total) / count
    return Estimate(value=total / (count * scale), se=spread / math.sqrt(count) / scale)


def standard_error(scores: Iterable[int]) -> float:
    """Standard error of a mean of 0/1 scores: population std (ddof 0) / sqrt(n).

    Raises
    ------
    ValueError
        There is no score.
    """
    return estimate(scores)["se"]
