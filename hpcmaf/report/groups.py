"""Runs that differ in nothing but their seed belong together."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcmaf.report.records import Iteration, Run

UNKNOWN_TASK = "unknown task"
# Behind a method that is defined by hints, where its prompts have no words for one.
NO_HINT = " (no hint)"
# What may differ between two runs of the same experiment.
FREE = {"seed", "iterations", "name", "description"}


@dataclass(frozen=True, slots=True)
class Point:
    """One measure at one iteration, over the runs of a group.

    Attributes
    ----------
    value
        Mean over runs.
    se
        Standard error over problems: root mean square of the runs' own. It
        says how far a single run's evaluation set may mislead, not how much
        runs differ.
    spread
        Standard deviation over runs (ddof 1); ``None`` for one run.
    low, high
        Lowest and highest run.
    runs
        How many runs have this iteration.
    """

    value: float
    se: float
    low: float
    high: float
    runs: int
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one recipe.

    Attributes
    ----------
    label
        What sets it apart from the other groups.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def iterations(self) -> list[int]:
        """Iterations evaluated in any run."""
        return sorted({iteration.number for run in self.runs for iteration in run.evaluated})

    @property
    def complete(self) -> list[int]:
        """Iterations evaluated in every run that has begun.

        A mean over fewer runs than the iteration before has would jump for no
        reason of the method's.
        """
        begun = [{iteration.number for iteration in run.evaluated} for run in self.runs if run.evaluated]
        return sorted(set.intersection(*begun)) if begun else []

    @property
    def own(self) -> str:
        """Name of the measure that the method answers by."""
        return next((run.last.own for run in self.runs if run.last), "vote@M")

    def point(self, t: int, measure: str | None = None) -> Point | None:
        """Accuracy of a measure at iteration t, the method's own without a name; ``None`` where no run has it."""
        return self.over(t, lambda iteration: iteration.accuracy(measure))

    def at(self, t: int) -> list[Iteration]:
        """Iteration t of every run that has it evaluated."""
        return [iteration for run in self.runs if (iteration := run.at(t))]

    def over(self, t: int, read: Callable[[Iteration], Mapping[str, Any] | None]) -> Point | None:
        """Any metric with ``value`` and ``se`` at iteration t; ``None`` where no run has it."""
        found = map(read, self.at(t))
        estimates = [one for one in found if one is not None and one["value"] is not None]
        if not estimates:
            return None
        values = [one["value"] for one in estimates]
        se = math.sqrt(math.fsum(one["se"] ** 2 for one in estimates) / len(estimates))
        spread = statistics.stdev(values) if len(values) > 1 else None
        return Point(statistics.fmean(values), se, min(values), max(values), len(values), spread)

    def spent(self, t: int) -> dict[str, float] | None:
        """Mean cost of getting to iteration t, over the ``runs`` that know theirs; ``None`` where none does."""
        found = [cost for run in self.runs if (cost := run.spent(t)) is not None]
        if not found:
            return None
        return {"runs": len(found)} | {name: statistics.fmean(one[name] for one in found) for name in found[0]}

    @property
    def place(self) -> tuple[str, str]:
        """Task evaluated on, and model: what groups must share to be drawn, tabled and tested together."""
        run = self.runs[0]
        return run.evaluated_on or UNKNOWN_TASK, setting(run)[1]

    @property
    def line(self) -> str:
        """The label without the place; of a transfer, with what it was trained on."""
        run, parts = self.runs[0], self.label.split(" · ")
        parts = [f"trained on {run.trained_on}" if self._names_both(part) else part for part in parts]
        return " · ".join(part for part in parts if part not in self.place) or self.label

    @property
    def recipe(self) -> str:
        """The label without any task and without the model: what a recipe is called on every task."""
        parts = [part for part in self.label.split(" · ") if part not in self.place and not self._names_both(part)]
        return " · ".join(parts) or self.label

    def _names_both(self, part: str) -> bool:
        return self.runs[0].transferred and part == self.runs[0].task

    @property
    def problems(self) -> set[int]:
        """Numbers of evaluation problems; more than one where runs differ."""
        return {i.metrics["problems"] for run in self.runs for i in run.evaluated if i.metrics}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs of the same recipe together and name the groups.

    A run without a readable plan stands alone: nothing says what it is.

    Returns
    -------
    list of Group
        In the order of their names; runs in the order of seed and name.
    """
    members: dict[str, list[Run]] = {}
    for position, run in enumerate(runs):
        key = f"unknown {position}"
        if run.recipe is not None:
            fixed = {name: value for name, value in run.recipe.items() if name not in FREE}
            key = json.dumps([fixed, run.base], sort_keys=True)
        members.setdefault(key, []).append(run)
    ordered = [sorted(group, key=lambda run: (run.seed or 0, run.name)) for group in members.values()]
    labels = _labels(ordered)
    return [Group(label, tuple(group)) for label, group in sorted(zip(labels, ordered, strict=True), key=_by_label)]


def _by_label(item: tuple[str, list[Run]]) -> tuple[str, str]:
    return item[0], item[1][0].name


def setting(run: Run) -> tuple[str, str, str, str]:
    """Task, model, method and size of a run, in words."""
    size = f"{_number(run.agents, 'agent')} × {_number(run.rounds, 'round')}"
    method = run.method or "unknown method"
    return run.task or UNKNOWN_TASK, run.model or "unknown model", method + NO_HINT * run.unhinted, size


def _number(count: int | None, noun: str) -> str:
    return f"{'?' if count is None else count} {noun}{'' if count == 1 else 's'}"


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """The method, and of everything else whatever differs."""
    settings = [setting(group[0]) for group in groups]
    differs = [len({values[i] for values in settings}) > 1 for i in range(4)]
    order = (2, 0, 1, 3)
    labels = [" · ".join(values[i] for i in order if i == 2 or differs[i]) for values in settings]
    for label, count in Counter(labels).items():
        if count > 1:
            tied = [i for i, one in enumerate(labels) if one == label]
            for i, choice in zip(tied, _choices([groups[i][0] for i in tied]), strict=True):
                labels[i] = f"{label} · {choice}" if choice else label
    return _apart(labels, [group[0].name for group in groups])


def _choices(runs: Sequence[Run]) -> list[str]:
    """Recipe keys in which runs differ, such as ``mix=cap``."""
    flat = [_flatten(run.recipe or {}) for run in runs]
    keys = sorted(set().union(*flat))
    keys = [key for key in keys if len({repr(recipe.get(key)) for recipe in flat}) > 1]
    return [", ".join(f"{key.rpartition('.')[2]}={recipe.get(key)}" for key in keys) for recipe in flat]


def _flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif prefix or key not in FREE:
            flat[prefix + key] = value
    return flat


def _apart(labels: list[str], names: list[str]) -> list[str]:
    """Tell labels that are still equal apart by a run's name."""
    counts = Counter(labels)
    return [f"{label} ({name})" if counts[label] > 1 else label for label, name in zip(labels, names, strict=True)]


def common_title(groups: Sequence[Group]) -> str:
    """What all groups share, for a heading."""
    settings = [setting(group.runs[0]) for group in groups]
    shared = [values[0] for values in zip(*settings, strict=True) if len(set(values)) == 1]
    return " · ".join(shared)
