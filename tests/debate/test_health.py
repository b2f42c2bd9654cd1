"""A run that learns noise says so, and what to change, wherever one looks at it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcmaf.debate.health import Tally, evaluated, health_line, health_report, health_warnings
from hpcmaf.debate.transcript import NOT_ASKED, Utterance
from hpcmaf.evaluation.accuracy import score
from tests.debate.scripted import changed, debate

WELL = {"cut_off": 0.2, "unparsable": 0.1, "tied": 0.5, "unanimous": 0.25, "tokens_per_answer": 1234.5}


@pytest.mark.parametrize(
    ("rounds", "cut", "votes", "wanted"),
    [
        ([["7", "7", "7"], ["7", "7", None]], 1, (2, False), (1 / 6, 1 / 3, 0, 0)),
        ([["7", "8", "9"], ["7", "7", "7"]], 0, (3, False), (0, 0, 0, 1)),
        ([["7", "8"]], 2, (1, True), (1, 0, 1, 0)),
        # One agent has no votes.
        ([[None]], 0, (0, False), (0, 1, None, None)),
    ],
)
def test_debates_are_counted(rounds, cut, votes, wanted):
    reasons, tally = iter(["length"] * cut), Tally()
    one = changed(debate("a", *rounds), lambda _: {"completion_tokens": 10, "finish_reason": next(reasons, "stop")})
    tally.add(one, *votes)
    found = tally.values()
    assert tuple(found.get(name) for name in ("cut_off", "unparsable", "tied", "unanimous")) == wanted
    assert found["tokens_per_answer"] == 10


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cut_off": 0.21}, ["more than 20.0% of texts cut off (it: 21.0%)", "sampling.max_new_tokens"]),
        ({"unparsable": 0.9}, ["without an answer (it: 90.0%)", "hpcmaf prompts", "task.answer"]),
        ({"tied": 0.51}, ["more than 50.0% of votes tied", "debate.agents"]),
        ({"samples": {"a": 9, "b": 10}}, ["it: fewer than 10 training samples (a: 9); raise task.train"]),
        ({"samples": {"a": 10}, "unanimous": 1.0}, []),
    ],
)
def test_a_value_beyond_its_limit_is_a_warning(changed: dict, words: list[str]):
    lines = list(health_warnings({"it": WELL | changed}))
    assert len(lines) == bool(words) and all(word in lines[0] for word in words)
    assert health_report("it", WELL | changed).splitlines()[1:] == [f"warning: {line}" for line in lines]


def test_the_line_leaves_out_what_is_not_known():
    assert health_line(WELL | {"samples": {"a": 12, "b": 1200}}) == (
        "20.0% of texts cut off, 10.0% of last responses without an answer, 50.0% of votes tied, "
        "25.0% of votes unanimous, 1,234 tokens per answer, 12 to 1,200 samples per agent"
    )
    assert health_line({"tied": 0.125, "samples": {"a": 3, "b": 3}}) == "12.5% of votes tied, 3 samples per agent"
    alone = score([debate("a", ["7"], gold="7")], seed=0, iteration=0, method="base", task="arithmetic")
    assert alone["tied"] == 0 and not evaluated(alone).keys() & {"tied", "unanimous"}


def test_rounds_that_were_not_held_judges_and_hints_are_counted_as_what_they_are():
    one = debate("a", ["7", "7", "7"]).padded(3, True)
    judged = Utterance("judge", 3, 0, "which?", "2", finish_reason="length", completion_tokens=99)
    tally = Tally()
    tally.add(replace(one, judgement=judged), 3)
    wanted = {"cut_off": 1 / 4, "unparsable": 0, "tied": 0, "unanimous": 1, "undecided": 1, "tokens_per_answer": 0}
    assert tally.values() == wanted
    star, tally = debate("a", ["7"]), Tally()
    tally.add(replace(star, answers=(*star.answers, (replace(NOT_ASKED, round=2),))))
    assert tally.values()["unparsable"] == 0
