"""The label: last round only, by equivalence, ties by a seed of the problem's own."""

from __future__ import annotations

from hpcmaf.debate.consensus import agrees, consensus
from tests.debate.scripted import debate


def test_only_the_final_round_votes() -> None:
    assert consensus(debate("p", ["1", "1", "1"], ["2", "2", "1"]), 2, 0, 1).answer == "2"


def test_votes_count_by_equivalence_not_by_string() -> None:
    one = debate("p", ["x"] * 3, ["0.5", r"\frac{1}{2}", "3"])
    label = consensus(one, 2, 0, 1)
    assert label.votes == 2
    assert label.agrees == (True, True, False)
    assert agrees("1/2", label, one)
    assert not agrees("3", label, one)


def test_the_unparsable_never_vote() -> None:
    assert consensus(debate("p", ["1"], [None, None, "4"]), 2, 0, 1).answer == "4"
    silent = consensus(debate("p", ["1"], [None, None, None]), 2, 0, 1)
    assert silent.answer is None
    assert not agrees("1", silent, debate("p", ["1"], ["4"]))
    assert not agrees(None, consensus(debate("p", ["1"], ["4"]), 2, 0, 1), debate("p", ["1"], ["4"]))


def test_ties_are_drawn_per_run_iteration_and_problem() -> None:
    """The same tie falls the same way each time, and each way about as often."""
    draws = [consensus(debate(f"p{i}", ["1"], ["1", "2"]), 2, 5, 1) for i in range(400)]
    assert all(draw.tied for draw in draws)
    assert draws == [consensus(debate(f"p{i}", ["1"], ["1", "2"]), 2, 5, 1) for i in range(400)]
    ones = sum(draw.answer == "1" for draw in draws)
    assert 150 < ones < 250
    swapped = [consensus(debate(f"p{i}", ["1"], ["2", "1"]), 2, 5, 1).answer for i in range(400)]
    assert swapped == [draw.answer for draw in draws], "the order of agents decided a tie"
    for seed, iteration in ((6, 1), (5, 2)):
        again = [consensus(debate(f"p{i}", ["1"], ["1", "2"]), 2, seed, iteration).answer for i in range(400)]
        assert again != [draw.answer for draw in draws]
