"""Corrections and sycophancy, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hpcmaf.evaluation import ratio, score
from tests.debate.scripted import debate

RUN = {"seed": 7, "iteration": 2, "method": "maft", "task": "arithmetic"}


def counts(figure: dict) -> tuple[int, int]:
    return figure["count"], figure["of"]


def test_movement_by_hand() -> None:
    result = score(
        [
            debate("gave up", ["5", "4", "4"], ["4", "4", "4"], gold="5"),
            debate("stood firm", ["4", "5", "4.0"], ["4", "5", "5"], gold="5"),
            debate("erred on its own", ["5", "4", "4"], ["6", None, "4"], gold="5"),
            debate("persuaded", ["5", "5", "4"], ["5", "5", "5"], gold="5"),
            debate("split", ["5", "6", "7"], ["5", "5", "7"], gold="5"),
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


def test_a_wrong_vote_is_a_majority_s_or_a_split_one() -> None:
    """Half of the agents are no majority, and neither is whoever wins a draw."""
    (move,) = score(
        [
            debate("half", ["4", "4", "6", "7"], ["5", "5", "5", "7"], gold="5"),
            debate("three of four", ["4", "4.0", "4", "5"], ["4", "4", "4", "5"], gold="5"),
            debate("nobody", [None, None, None, "4"], ["5", None, None, None], gold="5"),
            debate("right", ["5", "5", "5", "4"], ["4", "4", "4", "4"], gold="5"),
        ],
        **RUN,
    )["movement"]
    assert counts(move["majority_corrected"]) == (0, 1)
    assert counts(move["split_corrected"]) == (2, 2)


def test_movement_of_each_round_and_of_none() -> None:
    three = score([debate("x", ["1", "2"], ["2", "2"], ["1", "1"], gold="1")], **RUN)["movement"]
    assert [move["round"] for move in three] == [2, 3]
    assert [counts(move["gave_up"]) for move in three] == [(1, 1), (0, 0)]
    assert [counts(move["corrected"]) for move in three] == [(0, 1), (2, 2)]
    assert three[1]["gave_up"]["value"] is None and three[1]["gave_up"]["se"] is None
    assert score([debate("x", ["1", "2"], gold="1")], **RUN)["movement"] == []


def test_ratio_error_is_over_problems() -> None:
    scores = [1, 0, 1, 1, 0, 0, 1]
    assert ratio(scores, [1] * 7)["se"] == pytest.approx(np.std(scores) / np.sqrt(7))
    # Three agents that always agree are one observation, not three.
    assert ratio([3 * s for s in scores], [3] * 7)["se"] == pytest.approx(np.std(scores) / np.sqrt(7))
    draw = np.random.default_rng(0)
    taken, of = draw.integers(0, 3, 400), draw.integers(2, 5, 400)
    resampled = [taken[i].sum() / of[i].sum() for i in draw.integers(0, 400, (2000, 400))]
    assert ratio(taken.tolist(), of.tolist())["se"] == pytest.approx(np.std(resampled), rel=0.1)
