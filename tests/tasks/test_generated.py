"""Tasks without a source: generated ones, and those that hpcmaf does not ship."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.config.load import load_recipe
from hpcmaf.errors import ConfigError, DataError
from hpcmaf.launch.prepare import draw
from hpcmaf.tasks import GENERATED, get_task, leak_guard
from hpcmaf.tasks.generated import side
from hpcmaf.tasks.prompts import expression_of

SEEDS = st.integers(0, 2**63 - 1)
# Task to what a question comes to, as Python writes it.
EXPRESSION = {"arithmetic": str, "words": expression_of, "sums": lambda question: question[len("What is ") : -1]}


@pytest.mark.parametrize("name", GENERATED)
@given(seed=SEEDS, count=st.integers(0, 300), other_seed=SEEDS, other_count=st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_sides_stay_apart_and_gold_is_what_python_makes_of_it(name, seed, count, other_seed, other_count) -> None:
    task = get_task(name)
    train, held = task.generate(count, seed, "train"), task.generate(other_count, other_seed, "eval")
    for problems, which, size in ((train, "train", count), (held, "eval", other_count)):
        assert len({problem.question for problem in problems}) == len({problem.id for problem in problems}) == size
        for problem in problems:
            expression = EXPRESSION[name](problem.question)
            assert problem.gold == str(eval(expression))  # digits and + - * only
            assert re.findall(r"\d+", problem.id) == re.findall(r"\d+", problem.question)
            assert side(problem.question if name == "sums" else expression) == which
    leak_guard(train, held)


@pytest.mark.parametrize("name", GENERATED)
def test_a_seed_repeats_and_another_differs(name) -> None:
    task = get_task(name)
    first, again, other = (task.splits(None, 50, 70, seed) for seed in (1, 1, 2))
    assert first == again and (len(first.train), len(first.eval)) == (50, 70)
    assert first.train != other.train and first.eval != other.eval
    assert task.splits(None, 80, 70, 1).train[:50] == first.train


def test_draws_are_those_of_earlier_versions() -> None:
    """Runs and the micro model's corpus were drawn with them."""
    second = [get_task(name).generate(2, 3, "train")[1].id for name in GENERATED]
    assert second == ["arithmetic-23-29-0-8-19-20", "words-4-3-11-12-8-16", "sums-4+8+3"]


@pytest.mark.parametrize("name", GENERATED)
def test_what_generated_problems_cannot_have_is_refused(name, tmp_path: Path) -> None:
    task = get_task(name)
    with pytest.raises(ConfigError, match=rf"task\.source: {name} is generated, from no file"):
        task.splits(tmp_path, 1, 1, 0)
    with pytest.raises(ConfigError, match=rf"task\.levels: {name} is generated, from no file and of no levels"):
        task.splits(None, 1, 1, 0, [1])
    with pytest.raises(ConfigError, match=r"task\.eval: 99999999999 problems"):
        task.splits(None, 1, 99_999_999_999, 0)


def test_compact_prompts_are_the_micro_models() -> None:
    assert get_task("arithmetic").prompts("compact").render("first", "1+2*3+4-5*6") == "1+2*3+4-5*6="
    prompts, (problem,) = get_task("words").prompts("compact"), get_task("words").generate(1, 0, "train")
    expression = expression_of(problem.question)
    shown = {"first": "", "hint": "5", "summarize": ["x", "y"], "update": "s", "update_without_summary": ["x", "y"]}
    found = [prompts.render(name, problem.question, read) for name, read in shown.items()]
    assert found == [f"{expression}=", f"{expression}=", f"{expression}|x|y", "~s", "|x|y"]
    with pytest.raises(DataError, match="found no arithmetic expression in the question"):
        prompts.render("first", "1 and 2")
    for name in ("integrate", "judge", "critic"):
        with pytest.raises(ConfigError, match="the compact prompts have no words for roles"):
            prompts.render(name, problem.question, "s")


EXAMPLE = Path(__file__).parents[2] / "recipes" / "own_task.py"


def recipe(folder: Path, name: str) -> Path:
    """A recipe that names a task."""
    path = folder / "own.yaml"
    path.write_text(f"model: {{path: micro}}\ntask: {{name: '{name}', train: 6, eval: 4}}\n")
    return path


def test_the_example_is_found_beside_its_recipe_from_anywhere(tmp_path, monkeypatch) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 36
    shutil.copy(EXAMPLE, tmp_path)
    found = load_recipe(str(recipe(tmp_path, "own_task.py:GCD")))
    monkeypatch.chdir("/")
    task = get_task(found.task.name)
    assert task.name == "gcd" and "prime factors" in task.prompts().render("first", "What?")
    assert [problem.id.split("-")[0] for problem in draw(found).train] == ["gcd"] * 6


def test_a_package_offers_tasks_by_an_entry_point(tmp_path, monkeypatch) -> None:
    shutil.copy(EXAMPLE, tmp_path / "gcd_tasks.py")
    about = tmp_path / "gcd_tasks-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gcd-tasks\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hpcmaf.tasks]\ndivisors = gcd_tasks:GCD\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get_task("divisors").name == "gcd"
    assert get_task(load_recipe(str(recipe(tmp_path, "divisors"))).task.name) is sys.modules["gcd_tasks"].GCD


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        (None, "none.py:GCD", "none.py: no such file beside the recipe or here"),
        ("x = (", "torn.py:GCD", "cannot be loaded (SyntaxError"),
        ("import nowhere_at_all", "lacks.py:GCD", "cannot be loaded (ModuleNotFoundError"),
        ("GCD = 1", "number.py:GCD", "is a int; it has to be a hpcmaf.Task"),
        ("GCD = 1", "other.py:LCM", "cannot be loaded (KeyError: 'LCM')"),
        (None, "unheard-of", "there is no task 'unheard-of'; use one of arithmetic, words, sums, gsm8k, svamp, math"),
    ],
)
def test_what_is_no_task_is_refused_in_a_line(tmp_path, text, name, line) -> None:
    if text is not None:
        (tmp_path / name.partition(":")[0]).write_text(text)
    with pytest.raises(ConfigError) as error:
        get_task(load_recipe(str(recipe(tmp_path, name))).task.name)
    assert line in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("task.name: ")
