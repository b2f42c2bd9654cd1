"""Is one way of answering better than another on the same problems? Differences, their errors and their tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hpcmaf.errors import DataError

RESAMPLES = 5_000


class Comparison(NamedTuple):
    """How ``b`` differs from ``a``.

    Attributes
    ----------
    difference
        Accuracy of ``b`` minus accuracy of ``a``, pooled over pairs.
    low, high
        95 % interval of the paired bootstrap over problems.
    gained, lost
        Answers that only ``b``, only ``a`` got right.
    p
        Exact two-sided p-value: McNemar's for one pair; for several the same idea, see :func:`sign_flip_test`.
    pairs
        How many pairs of runs. Interval and test speak about these trained models, not about training once more.
    """

    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    pairs: int


def compare(pairs: Sequence[tuple[Mapping[str, int], Mapping[str, int]]], scale: int = 1) -> Comparison:
    """Compare two methods, run by run on the same problems.

    Parameters
    ----------
    pairs
        Of each pair of runs the outcomes of ``a`` and of ``b``: problem id to right or wrong, or to any other whole
        number, such as how many agents disagree; gained and lost are then problems whose number is higher, is lower.
    scale
        What counts as a full score.

    Raises
    ------
    DataError
        No pair, or the two of a pair are not about the same problems.
    """
    if not pairs:
        raise DataError("nothing to compare: no two runs were evaluated on the same problems")
    # A problem that several seeds share is one problem, not several.
    nets: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for a, b in pairs:
        if a.keys() != b.keys():
            some = f"{len(a)} and {len(b)}, of which {len(a.keys() & b.keys())} are shared"
            raise DataError(f"a paired test needs the same problems on both sides: {some}; evaluate both on one set")
        nets.update({problem: b[problem] - right for problem, right in a.items()})
        counts.update(a.keys())
    low, high = _bootstrap(Counter((nets[problem], count) for problem, count in counts.items()))
    return Comparison(
        difference=nets.total() / (counts.total() * scale),
        low=low / scale,
        high=high / scale,
        gained=sum(b[problem] > one for a, b in pairs for problem, one in a.items()),
        lost=sum(b[problem] < one for a, b in pairs for problem, one in a.items()),
        p=sign_flip_test(Counter(nets.values())),
        pairs=len(pairs),
    )


def _bootstrap(sums: Mapping[tuple[int, int], int], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of sum(net) / sum(count) over resampled problems."""
    # Problems with the same net and count are alike, so drawing how many of each kind a resample holds is drawing them.
    kinds = sorted(sums)
    counts = np.array([sums[kind] for kind in kinds])
    net, size = np.array(kinds).T
    # A fixed seed: the same runs give the same report.
    draws = np.random.default_rng(20250110).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    low, high = np.quantile((draws @ net) / (draws @ size), (0.025, 0.975))
    return float(low), float(high)


def mcnemar(a_only: int, b_only: int) -> float:
    """P-value of the exact McNemar test, two-sided.

    Under the null hypothesis each problem that exactly one of two methods got right (``a_only``, ``b_only``) is a fair
    coin, so the smaller count is binomial(n, 1/2).
    """
    # Whole numbers until the last division, as binomial terms underflow.
    n = a_only + b_only
    term = tail = 1
    for k in range(1, min(a_only, b_only) + 1):
        term = term * (n - k + 1) // k
        tail += term
    return min(1.0, (2 * tail) / (1 << n))


def sign_flip_test(nets: Mapping[int, int]) -> float:
    """Exact two-sided test that a problem's net gain is as likely as the loss of the same size.

    Under the null hypothesis the sign of every problem's net, over all seeds at once, is a fair coin. With one seed
    nets are -1, 0, 1 and this is the exact McNemar test. ``nets`` counts the problems with a net gain.
    """
    sizes = {size: nets.get(size, 0) + nets.get(-size, 0) for size in sorted({*map(abs, nets)} - {0})}
    if sizes.keys() <= {1}:
        return mcnemar(nets.get(-1, 0), nets.get(1, 0))
    # The sum is 2 * (what falls on the positive side) - total.
    chances = np.ones(1)
    for size, count in sizes.items():
        ways = np.zeros(size * count + 1)
        # Exact whole numbers, rounded once.
        half = 1 << count
        ways[::size] = [math.comb(count, k) / half for k in range(count + 1)]
        chances = np.convolve(chances, ways)
    total = len(chances) - 1
    observed = abs(sum(net * count for net, count in nets.items()))
    sums = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chances[sums >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for the size of their family (Holm, 1979).

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection in the family at most
    alpha, whatever the dependence.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def outcomes(metrics: Mapping[str, Any], measure: str) -> dict[str, bool]:
    """Which problems are right by a measure, from the content of a ``metrics.json``."""
    scores = metrics["scores"]
    return {problem: mark == "1" for problem, mark in zip(scores["problem_ids"], scores[measure], strict=True)}
