"""Tasks that hpcmaf does not ship: in a file beside a recipe, or in an installed package."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.errors import ConfigError
from hpcmaf.launch.prepare import draw
from hpcmaf.tasks import get_task

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
    assert task.name == "gcd" and "prime factors" in task.prompts().first("What?")
    splits = draw(found)
    assert len(splits.train) == 6 and len(splits.eval) == 4
    for problem in [*splits.train, *splits.eval]:
        a, b = (int(word.rstrip("?")) for word in problem.question.split() if word.rstrip("?").isdigit())
        assert problem.gold == str(math.gcd(a, b))


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
        (None, "unheard-of", "there is no task 'unheard-of'; use one of arithmetic"),
    ],
)
def test_what_is_no_task_is_refused_in_a_line(tmp_path, text, name, line) -> None:
    if text is not None:
        (tmp_path / name.partition(":")[0]).write_text(text)
    with pytest.raises(ConfigError) as error:
        get_task(load_recipe(str(recipe(tmp_path, name))).task.name)
    assert line in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("task.name: ")
