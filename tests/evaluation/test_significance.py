"""Paired comparisons over seeds: intervals, exact tests against references, families."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.errors import DataError
from hpcmaf.evaluation import compare, holm, mcnemar, sign_flip_test


def paired(both: int, a_only: int, b_only: int, neither: int, name: str = "p") -> tuple[dict, dict]:
    rows = [(True, True)] * both + [(True, False)] * a_only + [(False, True)] * b_only + [(False, False)] * neither
    return {f"{name}{i}": a for i, (a, _) in enumerate(rows)}, {f"{name}{i}": b for i, (_, b) in enumerate(rows)}


def test_one_pair_is_mcnemar() -> None:
    pair = paired(50, 7, 23, 20)
    result = compare([pair])
    assert (result.gained, result.lost, result.p) == (23, 7, mcnemar(7, 23))
    assert (result.difference, result.pairs) == (0.16, 1)
    assert result.low < 0.16 < result.high


def test_the_interval_is_that_of_resampled_problems() -> None:
    a, b = paired(40, 9, 21, 30)
    values = np.array([b[key] - a[key] for key in a])
    draws = np.random.default_rng(1).choice(values, (20_000, len(values))).mean(axis=1)
    result = compare([(a, b)])
    assert (result.low, result.high) == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.012)
    # And about as wide as the normal approximation says.
    assert result.high - result.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.08)


def test_same_problems_again_are_no_new_evidence() -> None:
    pair = paired(50, 7, 23, 20)
    once, thrice = compare([pair]), compare([pair] * 3)
    assert thrice.p == pytest.approx(once.p, rel=1e-9)
    assert (thrice.low, thrice.high, thrice.difference) == pytest.approx((once.low, once.high, once.difference))
    assert (thrice.gained, thrice.pairs) == (69, 3)
    # Other problems are.
    more = compare([pair, paired(50, 7, 23, 20, "q")])
    assert more.p < once.p and more.high - more.low < once.high - once.low
    assert more.p == mcnemar(14, 46)


def by_enumeration(nets: list[int]) -> float:
    sums = [
        abs(sum(s * n for s, n in zip(signs, nets, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(nets))
    ]
    return sum(value >= abs(sum(nets)) for value in sums) / len(sums)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-3, 3), max_size=9))
def test_sign_flips_by_enumeration(nets: list[int]) -> None:
    assert sign_flip_test(Counter(nets)) == pytest.approx(by_enumeration(nets), rel=1e-12)


def test_sign_flips_hold_their_level() -> None:
    draw = random.Random(3)
    ps = [
        sign_flip_test(Counter(sum(draw.choice((-1, 0, 1)) for _ in range(3)) for _ in range(60))) for _ in range(400)
    ]
    assert 0.02 < sum(p <= 0.05 for p in ps) / len(ps) < 0.08
    assert sum(p <= 0.5 for p in ps) / len(ps) == pytest.approx(0.5, abs=0.08)


def test_large_nets_are_quick_and_never_above_one() -> None:
    assert sign_flip_test({1: 800, -1: 790, 2: 300, -2: 310, 3: 100, -3: 98}) > 0.5
    assert 0 <= sign_flip_test({1: 2000, 2: 2000}) < 1e-200
    assert sign_flip_test({0: 5}) == 1.0


def binomial_test(successes: int, n: int) -> float:
    """Two-sided: the chance of every outcome of n fair coins that is no likelier than this one."""
    ways = [math.comb(n, k) for k in range(n + 1)]
    return float(Fraction(sum(way for way in ways if way <= ways[successes]), 2**n))


@settings(deadline=None)
@given(a_only=st.integers(0, 150), b_only=st.integers(0, 150), both=st.integers(1, 5))
def test_mcnemar_is_the_two_sided_binomial_test(a_only: int, b_only: int, both: int) -> None:
    p = mcnemar(a_only, b_only)
    assert math.isclose(p, binomial_test(b_only, a_only + b_only), rel_tol=1e-12)
    there, back = compare([paired(both, a_only, b_only, 2)]), compare([paired(both, b_only, a_only, 2)])
    assert (there.p, there.gained, there.lost) == (p, b_only, a_only) == (back.p, back.lost, back.gained)


def test_many_problems_neither_overflow_nor_vanish() -> None:
    assert mcnemar(0, 2000) == 0.0  # 2^-1999 is below the smallest double
    assert mcnemar(0, 1000) == 2.0**-999
    assert 0.30 < mcnemar(5050, 4950) < 0.33


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_only_raises(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(q >= p and q <= 1 for p, q in zip(ps, adjusted, strict=True))
    for i, j in itertools.combinations(range(len(ps)), 2):
        if ps[i] < ps[j]:
            assert adjusted[i] <= adjusted[j]
    if ps:
        assert math.isclose(min(adjusted), min(1.0, len(ps) * min(ps)))


def test_refuses_what_is_not_paired() -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        compare([])
    a, b = paired(3, 1, 1, 0)
    del b["p4"]
    with pytest.raises(DataError, match="same problems.*5 and 4.*4 are shared.*'p4'"):
        compare([(a, b)])
    with pytest.raises(DataError, match="same problems"):
        compare([(a, b | {"q": True})])
