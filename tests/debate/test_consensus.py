"""The label: last round only, by equivalence, ties by a seed of the problem's own."""

from __future__ import annotations

from hpcmaf.debate.consensus import agrees, consensus
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.tasks.problems import Problem


def held(first: list[str | None], last: list[str | None], id: str = "p") -> Transcript:
    rounds = tuple(
        tuple(Utterance("answer", m, n, "q", str(answer), answer) for n, answer in enumerate(answers))
        for m, answers in enumerate((first, last), start=1)
    )
    return Transcript(Problem(id, "q"), rounds)


def test_only_the_final_round_votes() -> None:
    assert consensus(held(["1", "1", "1"], ["2", "2", "1"]), 2, 0, 1).answer == "2"


def test_votes_count_by_equivalence_not_by_string() -> None:
    debate = held(["x"] * 3, ["0.5", r"\frac{1}{2}", "3"])
    label = consensus(debate, 2, 0, 1)
    assert label.votes == 2
    assert label.agrees == (True, True, False)
    assert agrees("1/2", label, debate)
    assert not agrees("3", label, debate)


def test_the_unparsable_never_vote() -> None:
    assert consensus(held(["1"], [None, None, "4"]), 2, 0, 1).answer == "4"
    silent = consensus(held(["1"], [None, None, None]), 2, 0, 1)
    assert silent.answer is None
    assert not agrees("1", silent, held(["1"], ["4"]))
    assert not agrees(None, consensus(held(["1"], ["4"]), 2, 0, 1), held(["1"], ["4"]))


def test_ties_are_drawn_per_run_iteration_and_problem() -> None:
    """The same tie falls the same way each time, and each way about as often."""
    draws = [consensus(held(["1"], ["1", "2"], f"p{i}"), 2, 5, 1) for i in range(400)]
    assert all(draw.tied for draw in draws)
    assert draws == [consensus(held(["1"], ["1", "2"], f"p{i}"), 2, 5, 1) for i in range(400)]
    ones = sum(draw.answer == "1" for draw in draws)
    assert 150 < ones < 250
    swapped = [consensus(held(["1"], ["2", "1"], f"p{i}"), 2, 5, 1).answer for i in range(400)]
    assert swapped == [draw.answer for draw in draws], "the order of agents decided a tie"
    for seed, iteration in ((6, 1), (5, 2)):
        again = [consensus(held(["1"], ["1", "2"], f"p{i}"), 2, seed, iteration).answer for i in range(400)]
        assert again != [draw.answer for draw in draws]
