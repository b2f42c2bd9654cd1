"""Every recipe against a baseline of the reader's choice, on the same problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hpcmaf.errors import DataError, UsageError
from hpcmaf.evaluation import Comparison, compare, holm, outcomes
from hpcmaf.methods import METHODS
from hpcmaf.report.groups import Group
from hpcmaf.report.records import Iteration, Run

# Baselines that every run brings along: the untouched base, iteration 0.
OF_THE_BASE = {"base": "one_answer", "majority": "majority", "debate": "debate"}


class Tested(NamedTuple):
    """One recipe against the baseline.

    Attributes
    ----------
    iteration, against
        Iteration of the recipe, and of the baseline.
    result
        ``None`` where there is no test; ``fault`` says why.
    p_holm
        Adjusted for all tests of this task evaluated on and model.
    """

    group: Group
    iteration: int
    against: int
    result: Comparison | None
    p_holm: float | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """What all are compared with.

    Attributes
    ----------
    groups
        Of each task evaluated on and model at most one; empty for the base.
    measure
        How it answers.
    """

    name: str
    groups: tuple[Group, ...]
    measure: str


def find_baseline(name: str, groups: Sequence[Group]) -> Baseline:
    """Find a baseline by a run's name, a recipe's label, a method; or one of the base's own.

    A method is looked for at each task evaluated on: there it is the recipe
    that was trained on that task, and one trained on another only where no
    such recipe is.

    Raises
    ------
    UsageError
        There is none, or it is not one of a task and model.
    """
    found = [group for group in groups if any(run.name == name for run in group.runs)]
    if not found:
        places = dict.fromkeys(group.place for group in groups)
        found = [one for place in places for one in _called(name, [g for g in groups if g.place == place])]
    if len({group.place for group in found}) < len(found):
        labels = ", ".join(repr(group.label) for group in found)
        raise UsageError(f"--baseline {name}: could be any of {labels}; name one of them")
    if found:
        return Baseline(name, tuple(found), "debate")
    if name in OF_THE_BASE:
        return Baseline(f"{name} (iteration 0)", (), OF_THE_BASE[name])
    known = [*dict.fromkeys(group.line for group in groups), *OF_THE_BASE]
    raise UsageError(f"--baseline {name}: neither a run nor a method here; name one of {', '.join(known)}")


def _called(name: str, here: Sequence[Group]) -> list[Group]:
    """Of the recipes of one place those that a name fits best."""
    methods = [group for group in here if group.runs[0].method == name]
    for found in (
        [group for group in here if name in (group.label, group.line)],
        [group for group in methods if not group.runs[0].transferred],
    ):
        if found:
            return found
    return methods


def against(baseline: Baseline, groups: Sequence[Group]) -> list[Tested]:
    """Test each recipe's last iteration against the baseline's.

    Runs are paired by seed; where seeds do not pair, by problems. The
    baseline gives its last iteration up to the recipe's own, so that nobody
    is held against a society that has learned for longer; what trains nobody
    is the same whenever it is asked, and is held against the last. What was
    trained on another task is tested with the rest, as long as it was asked
    the same problems. Holm's adjustment covers the recipes evaluated on one
    task with one model.
    """
    rows: list[Tested] = []
    for place in dict.fromkeys(group.place for group in groups):
        family = []
        other = next((group for group in baseline.groups if group.place == place), None)
        for group in groups:
            if group.place != place or group is other or not group.complete:
                continue
            if baseline.groups and other is None:
                continue
            family.append(_test(group, other, baseline.measure))
        adjusted = iter(holm([row.result.p for row in family if row.result]))
        rows += [row._replace(p_holm=next(adjusted)) if row.result else row for row in family]
    return rows


def _test(group: Group, other: Group | None, measure: str) -> Tested:
    last = group.complete[-1]
    if other is None:
        earlier, at = group, 0
    else:
        earlier = other
        at = max((t for t in other.complete if t <= last or _untrained(group)), default=-1)
    faults = []
    pairs = []
    for ours in group.runs:
        for theirs in [ours] if other is None else _partners(ours, group, earlier):
            a, b = _at(theirs, at), _at(ours, last)
            if a is None or b is None or not (a.metrics and b.metrics):
                faults.append(f"{ours.name}: no iteration {last} here or {at} there")
                continue
            one = (outcomes(a.metrics, measure), outcomes(b.metrics, "debate"))
            # Problems of one id may still be others: a source may number its lines.
            known = {ours.questions, theirs.questions} - {None}
            if one[0].keys() != one[1].keys() or len(known) > 1:
                faults.append(f"{ours.name} and {theirs.name} answered different problems")
                continue
            pairs.append(one)
    try:
        result = compare(pairs)
    except DataError as error:
        return Tested(group, last, at, None, None, "; ".join(dict.fromkeys(faults)) or str(error))
    return Tested(group, last, at, result, None, None)


def _untrained(group: Group) -> bool:
    method = METHODS.get(group.runs[0].method or "")
    return method is not None and method.learners == "nobody"


def _partners(ours: Run, group: Group, other: Group) -> list[Run]:
    """The baseline's run of the same seed; of a single one, whichever seed it has."""
    same = [run for run in other.runs if run.seed == ours.seed]
    return same[:1] if same else list(other.runs) if len(other.runs) == len(group.runs) == 1 else []


def _at(run: Run, t: int) -> Iteration | None:
    return next((iteration for iteration in run.evaluated if iteration.number == t), None)
