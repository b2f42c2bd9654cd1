"""Runs that differ in nothing but their seed belong together."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hpcmaf.report.records import Iteration, Run
from hpcmaf.report.table import NONE

Item = TypeVar("Item")
# Behind a method that is defined by hints, where its prompts have no words for one.
NO_HINT = " (no hint)"
# What may differ between two runs of the same experiment.
FREE = {"seed", "iterations", "early_stop", "name", "description"}

# A value at an iteration: mean (``value``), lowest (``low``) and highest (``high``) of so many ``runs``. ``se`` is the
# standard error over problems, the root mean square of the runs' own: it says how far a single run's evaluation set may
# mislead, not how much runs differ.
Point = Mapping[str, float]


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Runs of one recipe; a label sets it apart from all others, and ``recipe`` is that without task and model."""

    label: str
    recipe: str
    runs: tuple[Run, ...]

    @property
    def any(self) -> Run:
        """A run, for what all have in common."""
        return self.runs[0]

    @property
    def place(self) -> tuple[str, str]:
        """Task evaluated on, and model: what groups must share to be drawn, tabled and tested together."""
        return self.any.evaluated_on, self.any.model

    @property
    def line(self) -> str:
        """What it is called among groups of one place; of a transfer, with what it was trained on."""
        return f"{self.recipe} · trained on {self.any.trained_on}" if self.any.transferred else self.recipe

    @property
    def problems(self) -> str:
        """How many problems its runs were evaluated on."""
        counts = {iteration.metrics["problems"] for run in self.runs for iteration in run.evaluated}
        return " or ".join(f"{count:,}" for count in sorted(counts)) or NONE

    @property
    def complete(self) -> list[int]:
        """Iterations evaluated in every run that has begun: a mean over fewer runs would jump for no good reason."""
        begun = [{iteration.number for iteration in run.evaluated} for run in self.runs if run.evaluated]
        return sorted(set.intersection(*begun)) if begun else []

    @property
    def final(self) -> dict[Run, Iteration]:
        """What is compared: of every run the iteration that its alarm kept, or else the last complete one."""
        last = max(self.complete, default=None)
        numbers = {run: last if run.kept is None else run.kept for run in self.runs}
        return {run: iteration for run, t in numbers.items() if (iteration := run.at(t))}

    @property
    def numbers(self) -> list[int]:
        """Numbers of these iterations; one, unless alarms kept others."""
        return sorted({iteration.number for iteration in self.final.values()})

    @property
    def ended(self) -> str:
        """The same in words."""
        return ", ".join(map(str, self.numbers)) + " (kept)" * any(run.kept is not None for run in self.runs)

    def at(self, t: int | None = None) -> list[Iteration]:
        """Iteration t of every run that has it evaluated; without a number, those that are compared."""
        if t is None:
            return list(self.final.values())
        return [iteration for run in self.runs if (iteration := run.at(t))]

    def point(self, t: int | None = None, name: str | None = None) -> Point | None:
        """A value at iteration t, the method's own accuracy without a name; ``None`` where no run has it."""
        found = [one.values[name or one.own] for one in self.at(t) if (name or one.own) in one.values]
        if not found:
            return None
        values = [one["value"] for one in found]
        se = math.sqrt(math.fsum(one["se"] ** 2 for one in found) / len(found))
        spread = {"low": min(values), "high": max(values), "runs": len(values)}
        return {"value": statistics.fmean(values), "se": se, **spread}


def together(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items by what a key says of them, in the order in which they come."""
    found: dict[Any, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs of the same recipe together and name the groups; runs stand in the order of seed and name."""
    ordered = sorted(runs, key=lambda run: (run.recipe.seed, run.name))
    members = together(ordered, lambda run: json.dumps(_fixed(run), sort_keys=True)).values()
    alike = together(members, lambda group: setting(group[0]))
    differs = [len(set(values)) > 1 for values in zip(*alike, strict=True)]
    found = []
    for (method, *others), twins in alike.items():
        task, model, size = (part if shown else "" for part, shown in zip(others, differs[1:], strict=True))
        for group, choice in zip(twins, _choices([group[0] for group in twins]), strict=True):
            label, recipe = (method, task, model, size, choice), (method, size, choice)
            found.append(Group(" · ".join(filter(None, label)), " · ".join(filter(None, recipe)), tuple(group)))
    return sorted(found, key=lambda group: (group.label, group.any.name))


def _fixed(run: Run) -> dict[str, Any]:
    """What runs of a group have in common: the recipe, and the base's fingerprint."""
    return run.recipe.model_dump(mode="json", exclude=FREE) | {"base": run.plan.base}


def setting(run: Run) -> tuple[str, str, str, str]:
    """Method, task, model and size of a run, in words."""
    size = " × ".join(map(_number, run.size, ("agent", "round")))
    task = f"{run.trained_on} → {run.evaluated_on}" if run.transferred else run.evaluated_on
    return run.method.name + NO_HINT * run.unhinted, task, run.model, size


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _choices(runs: Sequence[Run]) -> list[str]:
    """Recipe keys in which runs differ, such as ``mix=cap``."""
    flat = [_flatten(_fixed(run)) for run in runs]
    keys = [key for key in sorted(set().union(*flat)) if len({repr(recipe.get(key)) for recipe in flat}) > 1]
    return [", ".join(f"{_short(key)}={recipe[key]}" for key in keys if key in recipe) for recipe in flat]


def _short(key: str) -> str:
    first, *_, last = parts = key.split(".")
    return f"agent {parts[1]} {last}" if first == "agents" else last


def _flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def common_title(groups: Sequence[Group]) -> str:
    """What all groups share, for a heading."""
    method, task, model, size = zip(*(setting(group.any) for group in groups), strict=True)
    return " · ".join(values[0] for values in (task, model, method, size) if len(set(values)) == 1)
