"""A study file, and the runs it stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from hpcmaf.config.load import load_recipe
from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import ConfigError
from hpcmaf.files.yaml import Strict, find_yaml, read_mapping, shipped_folder, validate
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, TaskKey

# Every run brings these along, as its iteration 0.
OF_THE_BASE = ("base", "majority", "debate")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Variant(Strict):
    """A method under a name of its own, with recipe keys of its own."""

    name: str = Field(pattern=_NAME, description="letters, digits, '.', '_' and '-'")
    method: str
    set: dict[str, Any] = Field({}, description="recipe keys to values, such as {debate.agents: 5}")

    @model_validator(mode="before")
    @classmethod
    def _of_its_method(cls, value: Any) -> Any:
        return {"name": value, "method": value} if isinstance(value, str) else value


class StudyFile(Strict):
    """What a file in ``recipes/studies`` holds."""

    name: str = Field(pattern=_NAME, description="letters, digits, '.', '_' and '-'")
    description: str = ""
    tasks: list[str] = Field(min_length=1, description="first halves of recipe names, such as arithmetic")
    models: list[str] = Field(min_length=1, description="second halves of recipe names, such as micro-500")
    methods: list[Variant] = Field(min_length=1, description="methods, or {name, method, set}")
    seeds: list[int] = Field([0], min_length=1)
    iterations: int | None = Field(None, ge=0, le=1000, description="L; left out, the recipe's")
    set: dict[str, Any] = Field({}, description="recipe keys to values, for all runs")
    baseline: str | None = Field(None, description="a method that the report tests all others against")
    reference: bool = Field(False, description="whether the report shows the paper's figures")

    @model_validator(mode="after")
    def _a_baseline_there_is(self) -> StudyFile:
        known = {*OF_THE_BASE, *(entry.method for entry in self.methods)}
        if self.baseline is not None and self.baseline not in known:
            raise ValueError(f"baseline '{self.baseline}' is no method of the study; one of {', '.join(sorted(known))}")
        return self

    @field_validator("tasks", "models", "methods", "seeds")
    @classmethod
    def _apart(cls, value: list[Any]) -> list[Any]:
        names = [entry.name if isinstance(entry, Variant) else entry for entry in value]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is there twice; give one of them another name, or take it out")
        return value


@dataclass(eq=False)
class StudyRun:
    """One run of a study: its method or what the file calls it, and its plan once it is laid out."""

    label: str
    recipe: Recipe
    run: RunDir
    plan: Plan | None = None

    @cached_property
    def keys(self) -> Mapping[TaskKey, str]:
        """What its tasks are known by in other runs, once it is laid out."""
        from hpcmaf.study.sharing import Keys

        return Keys(self.plan).found


@dataclass(frozen=True, slots=True)
class Study:
    """Runs in the order in which they are begun, below ``root``; the rest is for :func:`hpcmaf.report.aggregate`."""

    name: str
    root: Path
    runs: tuple[StudyRun, ...]
    baseline: str | None = None
    reference: bool = False

    @property
    def report(self) -> Path:
        """Folder of tables and plots over all runs."""
        return self.root / "report"


def load_study(
    name: str, *, overrides: Sequence[str] = (), iterations: int | None = None, root: Path | None = None
) -> Study:
    """Read a study and lay out its runs, of a task and a model the first method first; writes nothing.

    It is named by path or as a shipped one. ``key=value`` strings and L win over what it says for every recipe; the
    folder for the runs is ``runs/<name>`` if left out.

    Raises
    ------
    ConfigError
        One line: file, key, fault, remedy.
    """
    path = find_yaml(name, shipped_folder("recipes", "recipes") / "studies", "study")
    file = validate(StudyFile, {"name": path.stem} | read_mapping(path), str(path))
    root = root or Path("runs") / file.name
    iterations = file.iterations if iterations is None else iterations
    runs = []
    for task, model, variant, seed in product(file.tasks, file.models, file.methods, file.seeds):
        name = f"{task}-{model}-{variant.name}-seed{seed}"
        changed = [*(file.set | variant.set).items(), *overrides]
        fixed = [("method", variant.method), ("seed", seed), ("name", name)]
        # A recipe beside the study's own folder of recipes is found before a shipped one.
        beside = path.parent / f"{task}/{model}.yaml"
        source = str(beside) if beside.is_file() else f"{task}/{model}"
        try:
            recipe = load_recipe(source, [*changed, *fixed], iterations)
        except ConfigError as error:
            raise ConfigError(f"{path}, run {name}: {error}") from error
        runs.append(StudyRun(variant.name, recipe, RunDir(root / name)))
    return Study(file.name, root, tuple(runs), file.baseline, file.reference)
