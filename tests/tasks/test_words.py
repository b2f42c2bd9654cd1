"""Generated stories."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.errors import ConfigError, DataError
from hpcmaf.tasks import get_task, leak_guard
from hpcmaf.tasks.arithmetic import side
from hpcmaf.tasks.words import expression_of_story, generate


@given(st.integers(0, 2**63 - 1), st.sampled_from(["train", "eval"]))
@settings(max_examples=30, deadline=None)
def test_a_story_tells_its_expression_and_nothing_else(seed, which) -> None:
    for problem in generate(20, seed, which):
        expression = expression_of_story(problem.question)
        assert problem.gold == str(eval(expression))  # digits and + - * only
        assert problem.id == "words-" + "-".join(re.findall(r"\d+", problem.question))
        assert side(expression) == which


def test_sides_stay_apart_also_from_arithmetic() -> None:
    """By expression: an evaluation story never comes to what arithmetic, or the micro model's corpus, trains on."""
    one, other = (get_task("words").splits(None, 200, 200, seed) for seed in (1, 2))
    leak_guard([*one.train, *other.train], [*one.eval, *other.eval])
    plain = get_task("arithmetic").splits(None, 200, 200, 1)
    leak_guard(plain.train, one.eval)
    assert {side(expression_of_story(problem.question)) for problem in one.eval + other.eval} == {"eval"}
    assert {side(problem.question) for problem in plain.train} == {"train"}


def test_stories_differ_and_repeat_with_their_seed() -> None:
    task = get_task("words")
    drawn = task.splits(None, 60, 60, 5)
    assert drawn == task.splits(None, 60, 60, 5)
    assert task.splits(None, 90, 60, 5).train[:60] == drawn.train
    openings = {re.sub(r"\d+", "#", problem.question) for problem in drawn.train}
    assert len(openings) > 40
    assert any(problem.gold.startswith("-") for problem in drawn.train)


def test_compact_prompts_give_the_expression() -> None:
    prompts = get_task("words").prompts("compact")
    (problem,) = generate(1, 0, "train")
    expression = expression_of_story(problem.question)
    assert prompts.first(problem.question) == f"{expression}="
    assert prompts.summarize(problem.question, ["x", "y"]) == f"{expression}|x|y"
    with pytest.raises(DataError, match="2 numbers instead of six"):
        prompts.first("1 and 2")


def test_what_it_cannot_have_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="words is generated and reads no file"):
        get_task("words").splits(tmp_path, 1, 1, 0)
    with pytest.raises(ConfigError, match="words has no levels"):
        get_task("words").splits(None, 1, 1, 0, [1])
    with pytest.raises(ConfigError, match="words is generated"):
        get_task("words").prepare("x", tmp_path)
