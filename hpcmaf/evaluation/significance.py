"""Is one way of answering better than another on the same problems?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hpcmaf.errors import DataError


class McNemar(NamedTuple):
    """Outcome of a paired comparison of ``a`` with ``b``.

    Attributes
    ----------
    b_only, a_only
        Problems that only ``b``, only ``a`` got right; the others say nothing.
    p
        Exact two-sided p-value.
    """

    b_only: int
    a_only: int
    p: float


def mcnemar(a: Mapping[str, bool], b: Mapping[str, bool]) -> McNemar:
    """Exact McNemar test of two answer methods on the same problems.

    Under the null hypothesis each problem that exactly one of them got right
    is a fair coin, so the smaller count is binomial(n, 1/2). Whole numbers
    until the last division: right for any n, also where floating-point
    binomial terms underflow.

    Parameters
    ----------
    a, b
        Problem id to right or wrong.

    Raises
    ------
    DataError
        The two are not about the same problems.
    """
    check_same_problems(a, b)
    b_only = sum(b[problem] and not right for problem, right in a.items())
    a_only = sum(right and not b[problem] for problem, right in a.items())
    return McNemar(b_only, a_only, sign_test(a_only, b_only))


def check_same_problems(a: Mapping[str, int], b: Mapping[str, int]) -> None:
    """Refuse to pair what is not about the same problems.

    Raises
    ------
    DataError
        With how many there are on either side, and one that is on one alone.
    """
    if a.keys() != b.keys():
        stray = min(a.keys() ^ b.keys())
        raise DataError(
            f"a paired test needs the same problems on both sides: {len(a)} and {len(b)}, of which "
            f"{len(a.keys() & b.keys())} are shared (e.g. {stray!r} is not); evaluate both on one set"
        )


def sign_test(a: int, b: int) -> float:
    """Two-sided binomial test of ``a`` against ``b`` with probability 1/2."""
    n = a + b
    if a == b:
        return 1.0
    term = tail = 1
    for k in range(1, min(a, b) + 1):
        term = term * (n - k + 1) // k
        tail += term
    return (2 * tail) / (1 << n)


def outcomes(metrics: Mapping[str, Any], measure: str) -> dict[str, bool]:
    """Per-problem outcomes of one measure, from the dict ``score`` returns.

    Parameters
    ----------
    metrics
        Content of a ``metrics.json``.
    measure
        Its name, see :data:`hpcmaf.evaluation.measures.MEASURES`.

    Raises
    ------
    DataError
        It was not measured, there are not as many scores as problems, or a
        problem is listed twice.
    """
    ids, scores = metrics["scores"]["problem_ids"], metrics["scores"].get(measure)
    if scores is None:
        raise DataError(f"iteration {metrics.get('iteration')}: {measure} was not measured")
    result = dict(zip(ids, (mark == "1" for mark in scores), strict=False))
    if len(ids) != len(scores) or len(result) != len(ids):
        raise DataError(
            f"scores of iteration {metrics.get('iteration')}: {len(result)} distinct problems, {len(ids)} ids and "
            f"{len(scores)} {measure} scores do not fit; evaluate the iteration again"
        )
    return result
