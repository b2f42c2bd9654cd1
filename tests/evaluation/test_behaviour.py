"""Corrections, sycophancy, specialisation and curves, by hand and by brute force."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.debate.transcript import Transcript
from hpcmaf.evaluation import ratio, score
from hpcmaf.evaluation.curves import answer_classes, curve_points, majority_at_k, pass_at_k

Debate = Callable[..., Transcript]
RUN = {"seed": 7, "iteration": 2, "method": "maft", "task": "arithmetic"}


def counts(figure: dict) -> tuple[int, int]:
    return figure["count"], figure["of"]


def test_movement_by_hand(debate: Debate) -> None:
    result = score(
        [
            debate("gave up", "5", ["5", "4", "4"], ["4", "4", "4"]),
            debate("stood firm", "5", ["4", "5", "4.0"], ["4", "5", "5"]),
            debate("erred on its own", "5", ["5", "4", "4"], ["6", None, "4"]),
            debate("persuaded", "5", ["5", "5", "4"], ["5", "5", "5"]),
            debate("split", "5", ["5", "6", "7"], ["5", "5", "7"]),
        ],
        **RUN,
    )
    (move,) = result["movement"]
    assert move["round"] == 2
    # Right in round 1: 1 + 1 + 1 + 2 + 1 = 6 of 15.
    assert counts(move["corrupted"]) == (2, 6)
    assert counts(move["corrected"]) == (3, 9)
    # The others' joint wrong answer, by equivalence: taken over once in three times.
    assert counts(move["gave_up"]) == (1, 3)
    assert counts(move["persuaded"]) == (1, 1)
    assert move["gave_up"]["value"] == pytest.approx(1 / 3)
    # Votes: the first three begin wrong; "persuaded" begins right.
    assert counts(move["vote_corrected"])[0] >= 1 and counts(move["vote_corrupted"])[0] == 0
    assert counts(move["majority_corrected"]) == (1, 3)
    both = (counts(move[name]) for name in ("majority_corrected", "split_corrected"))
    assert counts(move["vote_corrected"]) == tuple(map(sum, zip(*both, strict=True)))
    gained = result["scores"]["vote@1"], result["scores"]["vote@M"]
    assert counts(move["vote_corrected"])[0] == sum(pair == ("0", "1") for pair in zip(*gained, strict=True))


def test_a_wrong_vote_is_a_majority_s_or_a_split_one(debate: Debate) -> None:
    """Half of the agents are no majority, and neither is whoever wins a draw."""
    (move,) = score(
        [
            debate("half", "5", ["4", "4", "6", "7"], ["5", "5", "5", "7"]),
            debate("three of four", "5", ["4", "4.0", "4", "5"], ["4", "4", "4", "5"]),
            debate("nobody", "5", [None, None, None, "4"], ["5", None, None, None]),
            debate("right", "5", ["5", "5", "5", "4"], ["4", "4", "4", "4"]),
        ],
        **RUN,
    )["movement"]
    assert counts(move["majority_corrected"]) == (0, 1)
    assert counts(move["split_corrected"]) == (2, 2)


def test_movement_of_each_round_and_of_none(debate: Debate) -> None:
    three = score([debate("x", "1", ["1", "2"], ["2", "2"], ["1", "1"])], **RUN)["movement"]
    assert [move["round"] for move in three] == [2, 3]
    assert [counts(move["gave_up"]) for move in three] == [(1, 1), (0, 0)]
    assert [counts(move["corrected"]) for move in three] == [(0, 1), (2, 2)]
    assert three[1]["gave_up"]["value"] is None and three[1]["gave_up"]["se"] is None
    assert score([debate("x", "1", ["1", "2"])], **RUN)["movement"] == []


def test_ratio_error_is_over_problems() -> None:
    scores = [1, 0, 1, 1, 0, 0, 1]
    assert ratio(scores, [1] * 7)["se"] == pytest.approx(np.std(scores) / np.sqrt(7))
    # Three agents that always agree are one observation, not three.
    assert ratio([3 * s for s in scores], [3] * 7)["se"] == pytest.approx(np.std(scores) / np.sqrt(7))
    draw = np.random.default_rng(0)
    taken, of = draw.integers(0, 3, 400), draw.integers(2, 5, 400)
    resampled = [taken[i].sum() / of[i].sum() for i in draw.integers(0, 400, (2000, 400))]
    assert ratio(taken.tolist(), of.tolist())["se"] == pytest.approx(np.std(resampled), rel=0.1)


def test_specialisation_by_hand(debate: Debate) -> None:
    result = score(
        [
            debate("a", "1", ["1", "2", "3"]),
            debate("b", "1", ["2", "1", "1"]),
            debate("c", "1", ["1", "1", "1"]),
            debate("d", "1", ["2", "2", None]),
        ],
        **RUN,
    )
    found = result["rounds"][0]["specialisation"]
    assert (found["oracle"]["value"], found["unanimous"]["value"]) == (0.75, 0.25)
    assert [one["value"] for one in found["alone"]] == [0.25, 0.0, 0.0]
    assert found["pairs"] == [[0, 1, 0.5], [0, 2, 0.5], [1, 2, 0.0]]
    assert found["disagreement"]["value"] == pytest.approx(1 / 3)
    assert found["independent"] == pytest.approx(0.5)  # all are right half the time
    assert result["scores"]["agents"] == [["1010", "0110", "0110"]]
    # The vote of "a" is a draw, so the gap is that or nothing.
    assert found["gap"]["value"] == pytest.approx(0.75 - result["accuracy"]["vote@1"]["value"])


def test_one_agent_has_no_pairs(debate: Debate) -> None:
    found = score([debate("a", "1", ["1"])], **RUN)["rounds"][0]["specialisation"]
    assert (found["disagreement"], found["independent"], found["pairs"]) == (None, None, [])


def test_by_kind_takes_what_groups(debate: Debate) -> None:
    made = [debate(f"p{i}", "1", ["1" if i % 2 else "2", "1"]) for i in range(8)]
    made = [
        replace(one, problem=replace(one.problem, meta={"level": str(i % 2), "id": str(i), "same": "x"}))
        for i, one in enumerate(made)
    ]
    found = score(made, **RUN)["by_kind"]
    assert list(found) == ["level"]
    assert [agent["value"] for agent in found["level"]["0"]["agents"]] == [0.0, 1.0]
    assert found["level"]["1"]["problems"] == 4 and found["level"]["1"]["vote"]["value"] == 1.0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_majority_at_k_by_hand() -> None:
    assert answer_classes(["2", None, "4/2", "3", "3.0", "2"]) == (0, -1, 0, 1, 1, 0)
    classes = (0, 0, 1)
    assert majority_at_k(classes, 0, 1) == pytest.approx(2 / 3)
    assert majority_at_k(classes, 0, 2) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert (majority_at_k(classes, 0, 3), majority_at_k(classes, 1, 3)) == (1.0, 0.0)
    assert majority_at_k((0, 1, 2), 1, 3) == pytest.approx(1 / 3)
    assert majority_at_k((0, -1), 0, 2) == 1.0  # the mute do not vote
    assert majority_at_k((-1, -1), -1, 2) == 0.0


def test_majority_of_many_is_drawn_and_near_the_truth() -> None:
    classes = tuple([0] * 12 + [1] * 8 + [-1] * 4)
    draw = random.Random(5)
    truth = []
    for _ in range(4000):
        subset = draw.sample(classes, 5)
        a, b = subset.count(0), subset.count(1)
        truth.append(0.5 if a == b else float(a > b))
    assert majority_at_k(classes, 0, 5) == pytest.approx(np.mean(truth), abs=0.06)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 0), (3, 1, 4)])
def test_impossible_curves_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        pass_at_k(n, c, k)


def test_curves_end_in_what_was_measured(debate: Debate) -> None:
    made = [debate(f"p{i}", "1", ["1", "1" if i % 2 else "2", "3"], ["1", "1", "1"]) for i in range(10)]
    result = score(made, **RUN)
    first, last = result["curves"]
    assert (first["round"], last["round"], first["k"]) == (1, 2, [1, 2, 3])
    assert first["pass"][0]["value"] == pytest.approx(result["rounds"][0]["mean"]["value"])
    assert first["majority"][0]["value"] == pytest.approx(result["rounds"][0]["mean"]["value"])
    assert first["pass"][-1] == pytest.approx(result["rounds"][0]["specialisation"]["oracle"])
    assert last["majority"][-1] == {"value": 1.0, "se": 0.0}
    assert curve_points(40) == [*range(1, 17), 32, 40]
