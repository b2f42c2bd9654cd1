"""Every fact the method states about evaluation; paired comparisons over seeds: intervals, exact tests, families."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.evaluation.accuracy import estimate, pseudo_label_accuracy, score
from hpcmaf.evaluation.significance import compare, holm, mcnemar, sign_flip_test
from tests.debate.scripted import debate

RUN = {"seed": 7, "iteration": 2, "method": "maft", "task": "arithmetic"}


@pytest.fixture
def four() -> list[Transcript]:
    """Four debates of three agents in two rounds, one of each kind."""
    return [
        debate("right", ["5", "4", "5"], ["5", "5", "4"], gold="5"),
        debate("turned", ["2", "2", "-3"], ["-3", "2", "-3"], gold="-3"),  # the debate mends round 1
        debate("wrong", ["8", None, "9"], ["9", "9", None], gold="8"),
        debate("mute", [None, None, None], [None, None, None], gold="1"),
    ]


def test_accuracies_by_hand(four: list[Transcript]) -> None:
    result = score(four, **RUN)
    scores = result["scores"]
    assert scores["problem_ids"] == ["right", "turned", "wrong", "mute"]
    assert scores["answer"] == "1010"  # agent 0's first answer
    assert scores["vote@M"] == "1100"  # the vote of the last round
    assert scores["vote@1"][:2] == "10"
    assert scores["vote@1"][3] == "0"
    assert result["accuracy"]["answer"] == {"agents": 1, "rounds": 1, "value": 0.5, "se": 0.25}
    assert result["accuracy"]["vote@M"] == {"agents": 3, "rounds": 2, "value": 0.5, "se": 0.25}
    assert (result["schema"], result["iteration"], result["method"]) == ("hpcmaf-metrics/2", 2, "maft")
    assert (result["task"], result["problems"], result["pseudo_labels"]) == ("arithmetic", 4, None)


def test_per_round_per_agent_and_vote(four: list[Transcript]) -> None:
    first, last = score(four, **RUN)["rounds"]
    assert (first["round"], last["round"]) == (1, 2)
    assert [agent["value"] for agent in first["agents"]] == [0.5, 0.0, 0.5]
    assert [agent["value"] for agent in last["agents"]] == [0.5, 0.25, 0.25]
    assert last["mean"]["value"] == pytest.approx(1 / 3)
    assert last["vote"] == {"value": 0.5, "se": 0.25}
    # Shares of right agents per problem: 2/3, 2/3, 0, 0.
    assert last["mean"]["se"] == pytest.approx(np.std([2 / 3, 2 / 3, 0, 0]) / 2)


def test_unparsable_problems_stay_in_the_denominator() -> None:
    mute = [debate(f"mute{i}", [None] * 3, [None] * 3, gold="1") for i in range(3)]
    result = score([debate("right", ["1"] * 3, ["1"] * 3, gold="1"), *mute], **RUN)
    assert result["problems"] == 4
    assert [measure["value"] for measure in result["accuracy"].values()] == [0.25] * 3
    assert result["rounds"][0]["agents"][0]["value"] == 0.25
    assert result["unparsable"] == 0.75
    assert result["consensus"] == 0.25


def test_only_the_final_round_decides() -> None:
    # Eight of nine answers are right, the last round's vote is not.
    result = score([debate("late", ["4"] * 3, ["4"] * 3, ["4", "7", "7"], gold="4")], **RUN)
    assert (result["scores"]["vote@1"], result["scores"]["vote@M"]) == ("1", "0")
    assert [row["vote"]["value"] for row in result["rounds"]] == [1.0, 1.0, 0.0]
    assert result["consensus"] == pytest.approx(2 / 3)
    # And unparsable answers count in the final round alone.
    assert score([debate("early", [None] * 3, ["4"] * 3, gold="4")], **RUN)["unparsable"] == 0.0


def test_answers_are_compared_by_equivalence() -> None:
    result = score([debate("half", ["0.5", "1/2", "2"], ["2", "0.50", "2/4"], gold="1/2")], **RUN)
    assert (result["scores"]["answer"], result["scores"]["vote@M"]) == ("1", "1")
    assert result["consensus"] == pytest.approx(2 / 3)
    assert result["tied"] == 0.0


def test_order_of_problems_changes_nothing() -> None:
    debates = [debate(f"p{i}", ["1", "2", None], ["2", "1", "3"], gold="1") for i in range(30)]
    there, back = score(debates, **RUN), score(list(reversed(debates)), **RUN)
    for name in ("answer", "vote@1", "vote@M"):
        assert there["scores"][name] == back["scores"][name][::-1]
    there.pop("scores"), back.pop("scores")
    assert there == back


def test_one_agent_one_round() -> None:
    result = score([debate("a", ["1"], gold="1"), debate("b", ["2"], gold="1")], **RUN)
    assert len(result["rounds"]) == 1
    se = pytest.approx(0.5 / 2**0.5)
    assert result["accuracy"] == {"answer": {"agents": 1, "rounds": 1, "value": 0.5, "se": se}}
    assert (result["consensus"], result["tied"]) == (1.0, 0.0)


def test_what_it_refuses() -> None:
    good = debate("a", ["1", "1"], ["1", "1"], gold="1")
    with pytest.raises(DataError, match="no debate"):
        score([], **RUN)
    with pytest.raises(DataError, match="'b' has no gold"):
        score([good, debate("b", ["1", "1"], ["1", "1"])], **RUN)
    with pytest.raises(DataError, match="'a' comes twice"):
        score([good, good], **RUN)
    for other in (
        debate("b", ["1"], ["1"], gold="1"),
        debate("b", ["1", "1"], gold="1"),
        debate("b", ["1", "1"], ["1"], gold="1"),
    ):
        with pytest.raises(DataError, match="'b'.*2 agents in 2 rounds"):
            score([good, other], **RUN)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=100), st.randoms())
def test_estimate_is_exact_whatever_the_order(scores: list[int], random_: random.Random) -> None:
    shuffled = list(scores)
    random_.shuffle(shuffled)
    assert estimate(scores, 5) == estimate(shuffled, 5)
    assert estimate(scores, 5)["value"] == pytest.approx(np.mean(scores) / 5)
    assert estimate(scores, 5)["se"] == pytest.approx(np.std(scores) / 5 / np.sqrt(len(scores)), abs=1e-15)


def test_pseudo_labels(four: list[Transcript]) -> None:
    result = pseudo_label_accuracy(four, 7, 2)
    assert result == {"value": 0.5, "se": 0.25, "problems": 4}
    # Labels are those of the final round.
    late = [debate("late", ["4"] * 3, ["7", "7", "4"], gold="4"), debate("mended", ["7", None], ["4", "4"], gold="4")]
    assert [pseudo_label_accuracy([one], 7, 2)["value"] for one in late] == [0.0, 1.0]
    # The same labels as evaluation would vote for, ties included.
    tied = [debate(f"p{i}", ["1", "9"], ["1", "9"], gold="9") for i in range(50)]
    assert pseudo_label_accuracy(tied, 7, 2)["value"] == score(tied, **RUN)["accuracy"]["vote@M"]["value"]
    # Problems without gold are left out, and all of them without gold is no figure at all.
    bare = debate("bare", ["5"] * 3, ["5"] * 3)
    assert pseudo_label_accuracy([*four, bare], 7, 2) == result
    assert pseudo_label_accuracy([bare], 7, 2) is None


def paired(both: int, a_only: int, b_only: int, neither: int, name: str = "p") -> tuple[dict, dict]:
    rows = [(True, True)] * both + [(True, False)] * a_only + [(False, True)] * b_only + [(False, False)] * neither
    return {f"{name}{i}": a for i, (a, _) in enumerate(rows)}, {f"{name}{i}": b for i, (_, b) in enumerate(rows)}


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


def test_large_nets_are_quick_and_never_above_one() -> None:
    assert sign_flip_test({1: 800, -1: 790, 2: 300, -2: 310, 3: 100, -3: 98}) > 0.5
    assert 0 <= sign_flip_test({1: 2000, 2: 2000}) < 1e-200
    assert sign_flip_test({0: 5}) == 1.0


@settings(deadline=None)
@given(a_only=st.integers(0, 150), b_only=st.integers(0, 150), both=st.integers(1, 5))
def test_one_pair_is_mcnemar(a_only: int, b_only: int, both: int) -> None:
    p = mcnemar(a_only, b_only)
    # The test of nets of two, which are summed up, knows no McNemar.
    assert p == pytest.approx(sign_flip_test({2: b_only, -2: a_only}), rel=1e-9)
    there, back = compare([paired(both, a_only, b_only, 2)]), compare([paired(both, b_only, a_only, 2)])
    assert (there.p, there.gained, there.lost) == (p, b_only, a_only) == (back.p, back.lost, back.gained)
    assert there.difference == (b_only - a_only) / (both + a_only + b_only + 2) and there.pairs == 1


def test_many_problems_neither_overflow_nor_vanish() -> None:
    assert mcnemar(0, 2000) == 0.0  # 2^-1999 is below the smallest double
    assert mcnemar(0, 1000) == 2.0**-999
    assert 0.30 < mcnemar(5050, 4950) < 0.33


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_refuses_what_is_not_paired() -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        compare([])
    a, b = paired(3, 1, 1, 0)
    del b["p4"]
    with pytest.raises(DataError, match="same problems.*5 and 4.*4 are shared"):
        compare([(a, b)])
    with pytest.raises(DataError, match="same problems"):
        compare([(a, b | {"q": True})])
