"""Generated arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import ConfigError
from hpcmaf.tasks import get_task
from hpcmaf.tasks.arithmetic import generate, make_problem, side

SEEDS = st.integers(0, 2**63 - 1)
COUNTS = st.integers(0, 300)


@given(SEEDS, COUNTS, SEEDS, COUNTS)
@settings(max_examples=40, deadline=None)
def test_sides_stay_apart_whatever_the_seeds_and_counts(seed, count, other_seed, other_count) -> None:
    train = [problem.question for problem in generate(count, seed, "train")]
    held = [problem.question for problem in generate(other_count, other_seed, "eval")]
    assert len(set(train)) == count and len(set(held)) == other_count
    assert not set(train) & set(held)
    assert {side(question) for question in train} <= {"train"} and {side(question) for question in held} <= {"eval"}


@given(st.lists(st.integers(0, 29), min_size=6, max_size=6))
def test_gold_is_what_python_makes_of_the_question(numbers) -> None:
    problem = make_problem(*numbers)
    assert problem.gold == str(eval(problem.question))  # digits and + - * only
    assert [int(number) for number in re.findall(r"\d+", problem.question)] == numbers


def test_integers_are_uniform_from_0_to_29() -> None:
    numbers = [int(n) for problem in generate(2000, 7, "train") for n in re.findall(r"\d+", problem.question)]
    counts = [numbers.count(n) for n in range(30)]
    assert sum(counts) == len(numbers) == 12_000
    # 400 expected of each, standard deviation 19.7.
    assert 300 < min(counts) and max(counts) < 500


def test_a_seed_repeats_and_another_differs() -> None:
    task = get_task("arithmetic")
    first, again, other = (task.splits(None, 50, 70, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.train != other.train and first.eval != other.eval
    assert (len(first.train), len(first.eval)) == (50, 70)
    assert task.splits(None, 80, 70, 1).train[:50] == first.train


def test_what_generated_problems_cannot_have_is_refused(tmp_path: Path) -> None:
    task = get_task("arithmetic")
    with pytest.raises(ConfigError, match=r"task\.source"):
        task.splits(tmp_path, 1, 1, 0)
    with pytest.raises(ConfigError, match=r"task\.levels"):
        task.splits(None, 1, 1, 0, [1])
    with pytest.raises(ConfigError, match=r"task\.eval: 99999999999 problems"):
        task.splits(None, 1, 99_999_999_999, 0)
    with pytest.raises(ConfigError, match="generated"):
        task.prepare("anything", tmp_path)


def test_compact_prompts_are_the_micro_models() -> None:
    task = get_task("arithmetic")
    assert task.prompts("compact").first("1+2*3+4-5*6") == "1+2*3+4-5*6="
    assert task.answer_form("compact") is AnswerForm.NUMBER
