"""Sizes and draws of a critic's data."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.selection.balance import cap_counts, drawer, exact_counts, mix_trajectories

sizes = st.integers(0, 60)
# A busy machine takes longer than hypothesis allows.
unhurried = settings(deadline=None)
shares = st.integers(0, 20).map(lambda twentieth: twentieth / 20)


@pytest.mark.parametrize(
    ("positives", "negatives", "w", "expected"),
    [
        (3, 10, 0.5, (3, 3)),
        (10, 3, 0.25, (9, 3)),
        (7, 7, 0.3, (7, 3)),
        (100, 1, 0.1, (9, 1)),
        (5, 9, 1.0, (0, 9)),
        (5, 0, 0.5, (0, 0)),
    ],
)
def test_exact_counts(positives, negatives, w, expected):
    assert exact_counts(positives, negatives, w) == expected


@unhurried
@given(sizes, sizes, shares)
def test_both_have_at_most_share_w_and_are_as_large_as_that_allows(positives, negatives, w):
    kept_positives, kept_negatives = exact_counts(positives, negatives, w)
    assert 0 <= kept_positives <= positives and 0 <= kept_negatives <= negatives
    total, share = kept_positives + kept_negatives, Fraction(str(w))
    assert abs(Fraction(kept_negatives) - share * total) < 1
    # No sample could be added to both sides in proportion: one side is used up.
    needs = [(positives, 1 - w), (negatives, w)]
    assert any(kept == have for kept, (have, part) in zip((kept_positives, kept_negatives), needs, strict=True) if part)
    kept_positives, capped = cap_counts(positives, negatives, w)
    assert kept_positives == positives and capped <= negatives and capped <= share * (positives + capped)
    assert capped == negatives or capped + 1 > share * (positives + capped + 1)


@unhurried
@given(st.sets(st.integers(0, 200), max_size=40), st.sets(st.integers(201, 400), max_size=40), shares, st.data())
def test_draws_do_not_depend_on_order(positives, negatives, w, data):
    mix = data.draw(st.sampled_from(["exact", "cap", "released"]))
    sides = [str(p) for p in positives], [str(n) for n in negatives]
    shuffled = [data.draw(st.permutations(side)) for side in sides]
    draw = drawer(3, 1, "critic-0")
    chosen = mix_trajectories(*sides, w, mix, draw)
    assert chosen == mix_trajectories(*shuffled, w, mix, draw)
    assert chosen <= set(sides[0]) | set(sides[1])


def test_draws_differ_between_agents_iterations_and_seeds():
    positives, negatives = [f"p{i}" for i in range(60)], [f"n{i}" for i in range(20)]
    sets = [
        frozenset(mix_trajectories(positives, negatives, 0.5, "exact", drawer(*of)))
        for of in ((1, 1, "critic-0"), (1, 1, "critic-1"), (1, 2, "critic-0"), (2, 1, "critic-0"))
    ]
    assert len(set(sets)) == 4


def test_released_keeps_all_negatives_and_a_positive_after_about_half_of_them():
    positives, negatives = [f"p{i}" for i in range(400)], [f"n{i}" for i in range(400)]
    chosen = mix_trajectories(positives, negatives, 0.0, "released", drawer(1, 1, "critic-0"))
    assert set(negatives) <= chosen
    assert 150 < len(chosen - set(negatives)) < 250
    # The released code crashes here.
    few = mix_trajectories(positives[:2], negatives, 0.5, "released", drawer(1, 1, "critic-0"))
    assert few == set(negatives) | set(positives[:2])
