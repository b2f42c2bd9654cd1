"""Who wins, and that nothing but the answers and the seed has a say in it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.answers import Vote, equivalent
from hpcmaf.answers import vote as cast


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (["1/2", "3", r"\frac12", "0.5"], Vote("0.5", (True, False, True, True), 3, False)),  # not by string
        (["1", "2", "3", "2"], Vote("2", (False, True, False, True), 2, False)),  # a plurality is enough
        ([None, None, "7"], Vote("7", (False, False, True), 1, False)),
        (["", "nan", "nan", "7"], Vote("7", (False, False, False, True), 1, False)),
        ([None, None], Vote(None, (False, False), 0, False)),
        ([], Vote(None, (), 0, False)),
    ],
)
def test_who_wins(answers: list[str | None], outcome: Vote) -> None:
    assert cast(answers, 0) == outcome


def test_ties_are_drawn_uniformly_and_by_the_seed() -> None:
    answers = ["9", "10", "2"]  # neither the largest string nor the largest number is favoured
    winners = Counter(cast(answers, seed).answer for seed in range(3000))
    assert set(winners) == {"9", "10", "2"}
    # 3 classes, 3000 draws: a standard deviation is 26.
    assert all(abs(count - 1000) < 4 * 26 for count in winners.values())
    assert all(cast(answers, seed) == cast(answers, seed) for seed in range(20))
    assert all(cast(answers, seed).tied for seed in range(20))
    # Only the largest classes take part.
    assert {cast(["1", "1.0", "2", "2", "3"], seed).answer for seed in range(50)} == {"1", "2"}


_ANSWERS = st.lists(
    st.sampled_from(["1", "1.0", "2", "2/1", r"\frac12", "0.5", "x", "x=5", "5", "y=5", None]), max_size=7
)


@settings(deadline=None)  # the workers may have to start
@given(_ANSWERS, st.randoms(use_true_random=False), st.integers(0, 2**63 - 1))
def test_the_winning_class_is_as_large_as_it_says_whatever_the_order_of_agents(
    answers: list[str | None], random: object, seed: int
) -> None:
    order = list(range(len(answers)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight, permuted = cast(answers, seed), cast([answers[index] for index in order], seed)
    assert permuted.agrees == tuple(straight.agrees[index] for index in order)
    assert (permuted.answer, permuted.votes, permuted.tied) == (straight.answer, straight.votes, straight.tied)
    assert straight.votes == sum(straight.agrees)
    assert (straight.answer is None) == all(answer is None for answer in answers)
    agreeing = (answer for answer, agrees in zip(answers, straight.agrees, strict=True) if agrees)
    assert all(equivalent(answer, straight.answer) for answer in agreeing)
