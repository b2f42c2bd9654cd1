"""McNemar's test against a reference, and what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.errors import DataError
from hpcmaf.evaluation import mcnemar, outcomes


def paired(both: int, a_only: int, b_only: int, neither: int) -> tuple[dict[str, bool], dict[str, bool]]:
    rows = [(True, True)] * both + [(True, False)] * a_only + [(False, True)] * b_only + [(False, False)] * neither
    return {f"p{i}": a for i, (a, _) in enumerate(rows)}, {f"p{i}": b for i, (_, b) in enumerate(rows)}


def test_by_hand() -> None:
    # 1 against 5 of 6 coins: 2 * (1 + 6) / 64.
    assert mcnemar(*paired(10, 1, 5, 3)) == (5, 1, 14 / 64)
    assert mcnemar(*paired(10, 5, 1, 3)) == (1, 5, 14 / 64)
    assert mcnemar(*paired(7, 0, 0, 7)) == (0, 0, 1.0)
    assert mcnemar(*paired(0, 4, 4, 0)).p == 1.0


def binomial_test(successes: int, n: int) -> float:
    """Two-sided: the chance of every outcome of n fair coins that is no likelier than this one."""
    ways = [math.comb(n, k) for k in range(n + 1)]
    return float(Fraction(sum(way for way in ways if way <= ways[successes]), 2**n))


@settings(deadline=None)
@given(a_only=st.integers(0, 150), b_only=st.integers(0, 150), both=st.integers(0, 5), neither=st.integers(0, 5))
def test_is_the_two_sided_binomial_test(a_only: int, b_only: int, both: int, neither: int) -> None:
    result = mcnemar(*paired(both, a_only, b_only, neither))
    assert (result.b_only, result.a_only) == (b_only, a_only)
    assert math.isclose(result.p, binomial_test(b_only, a_only + b_only), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("a_only", "b_only", "p"),
    # From scipy.stats.binomtest(b_only, a_only + b_only, 0.5).
    [
        (1, 0, 1.0),
        (3, 9, 0.14599609375),
        (12, 30, 0.007915897334896727),
        (61, 40, 0.046044066929342785),
        (10, 200, 4.728263442876991e-47),
        (499, 430, 0.02562785570495701),
    ],
)
def test_agrees_with_scipy(a_only: int, b_only: int, p: float) -> None:
    assert math.isclose(mcnemar(*paired(2, a_only, b_only, 2)).p, p, rel_tol=1e-9)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_is_symmetric_and_ignores_order(rows: dict[str, tuple[bool, bool]]) -> None:
    a = {problem: pair[0] for problem, pair in rows.items()}
    b = {problem: pair[1] for problem, pair in reversed(rows.items())}
    there, back = mcnemar(a, b), mcnemar(b, a)
    assert (there.b_only, there.a_only, there.p) == (back.a_only, back.b_only, back.p)
    assert 0 < there.p <= 1


def test_many_problems_neither_overflow_nor_vanish() -> None:
    assert mcnemar(*paired(0, 0, 2000, 0)).p == 0.0  # 2^-1999 is below the smallest double
    assert mcnemar(*paired(0, 0, 1000, 0)).p == 2.0**-999
    assert 0.30 < mcnemar(*paired(0, 5050, 4950, 0)).p < 0.33


def test_refuses_other_problems() -> None:
    a, b = paired(3, 1, 1, 0)
    del b["p4"]
    with pytest.raises(DataError, match="same problems.*5 and 4.*4 are shared.*'p4'"):
        mcnemar(a, b)
    with pytest.raises(DataError, match="same problems"):
        mcnemar(a, b | {"q": True})


def test_outcomes_refuses_scores_that_do_not_fit() -> None:
    good = {"iteration": 1, "scores": {"problem_ids": ["x", "y"], "debate": "01"}}
    assert outcomes(good, "debate") == {"x": False, "y": True}
    for ids, marks in ((["x", "y"], "011"), (["x", "x"], "01"), (["x"], "01")):
        with pytest.raises(DataError, match="do not fit"):
            outcomes({"iteration": 1, "scores": {"problem_ids": ids, "debate": marks}}, "debate")
