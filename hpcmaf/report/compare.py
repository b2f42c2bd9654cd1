"""Every recipe against a baseline of the reader's choice, on the same problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpcmaf.debate.methods import METHODS
from hpcmaf.errors import DataError, UsageError
from hpcmaf.evaluation import compare, outcomes
from hpcmaf.report.groups import Group
from hpcmaf.report.paired import Test, family
from hpcmaf.report.records import Run

# The untouched base's ways to answer, and how they are measured.
OF_THE_BASE = {"base": "answer", "majority": "vote@1", "debate": "vote@M"}
_CALLED = {"base": "the base's one answer", "majority": "the base's majority", "debate": "the base's debate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested(Test):
    """One recipe against the baseline; its family are all of this task evaluated on and model.

    Attributes
    ----------
    iteration, against
        Iteration of the recipe, and of the baseline.
    """

    group: Group
    iteration: int
    against: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """What all are compared with.

    Attributes
    ----------
    groups
        Of each task evaluated on and model at most one, which answers in its
        own way; empty for the base.
    measure
        How the base answers.
    """

    name: str
    groups: tuple[Group, ...] = ()
    measure: str = ""


def find_baseline(name: str, groups: Sequence[Group]) -> Baseline:
    """Find a baseline by a run's name; one of the base's own; or by a recipe's label or a method.

    A method is looked for at each task evaluated on: there it is the recipe
    that was trained on that task, and one trained on another only where no
    such recipe is.

    Raises
    ------
    UsageError
        There is none, or it is not one of a task and model.
    """
    found = [group for group in groups if any(run.name == name for run in group.runs)]
    if not found and name in OF_THE_BASE:
        return Baseline(_CALLED[name], measure=OF_THE_BASE[name])
    if not found:
        places = dict.fromkeys(group.place for group in groups)
        found = [one for place in places for one in _called(name, [g for g in groups if g.place == place])]
    if len({group.place for group in found}) < len(found):
        labels = ", ".join(repr(group.label) for group in found)
        raise UsageError(f"--baseline {name}: could be any of {labels}; name one of them")
    if found:
        return Baseline(name, tuple(found))
    known = [*dict.fromkeys([*(group.line for group in groups), *OF_THE_BASE])]
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
    baseline gives its last iteration up to the recipe's own, so that no
    method is compared with a society that was trained for longer; what is not
    trained is the same in every iteration, and is compared with the last. What was
    trained on another task is tested with the rest, as long as it was evaluated on
    the same problems. The base is taken from any run whose iteration 0 has
    it, see :func:`shows_base`; where none has, there is no test. Holm's
    adjustment covers the recipes evaluated on one task with one model.
    """
    rows: list[Tested] = []
    for place in dict.fromkeys(group.place for group in groups):
        here = [group for group in groups if group.place == place]
        other = next((group for group in baseline.groups if group.place == place), None)
        tests: list[Tested] = []
        for group in here:
            if not group.complete or group is other or (baseline.groups and other is None):
                continue
            if other is not None:
                tests.append(_test_group(group, other, baseline.name))
            elif not _is_base(group, baseline.measure):
                tests.append(_test_base(group, baseline, [run for one in here for run in one.runs]))
        rows += family(tests)
    return rows


def _is_base(group: Group, measure: str) -> bool:
    """Whether the last that a recipe has is the base's own way to answer."""
    return group.complete[-1] == 0 and group.own == measure and shows_base(group.runs[0], measure)


def shows_base(run: Run, measure: str) -> bool:
    """Whether a run's iteration 0 measures how the plain base answers.

    Nobody is trained yet, so that is up to the method's prompts and sampling:
    its first answers are the base's own unless they begin with an ID or are
    drawn at another temperature, and its debate is, if critics also dispute
    a summary.
    """
    ours, plain = METHODS.get(run.method or ""), METHODS["debate"]
    if ours is None:
        return False
    fields = ["ids", "temperature", *(["summaries", "critic_style"] if measure == "vote@M" else [])]
    return all(getattr(ours, field) == getattr(plain, field) for field in fields)


def _base_of(run: Run, measure: str, runs: Sequence[Run]) -> Iterator[Run]:
    """Runs that evaluate the base as this one does, itself first, then those of its seed."""
    rounds = run.rounds if measure == "vote@M" else 1
    agents = run.agents if measure != "answer" else 1
    for one in sorted(runs, key=lambda one: (one is not run, one.seed != run.seed)):
        found = one.at(0)
        accuracy = found.accuracy(measure) if found and shows_base(one, measure) else None
        same = one is run or (one.prompted == run.prompted and run.prompted is not None)
        if same and accuracy and (accuracy["agents"], accuracy["rounds"]) == (agents, rounds):
            yield one


def _test_base(group: Group, baseline: Baseline, runs: Sequence[Run]) -> Tested:
    pairs = []
    for run in group.runs:
        found = list(_base_of(run, baseline.measure, runs))
        # Any run's will do where the recipe has no other; else those of one seed belong together.
        pairs += [(run, one) for one in found if one.seed == run.seed or len(group.runs) == 1][:1]
    agents, rounds = group.runs[0].agents, group.runs[0].rounds
    size = {"answer": "", "vote@1": f" of {agents} agents"}.get(
        baseline.measure, f" of {agents} agents in {rounds} rounds"
    )
    none = f"{baseline.name}{size} was not measured in these runs"
    return _test(group, 0, pairs, baseline.name, baseline.measure, none)


def _test_group(group: Group, other: Group, name: str) -> Tested:
    last = group.complete[-1]
    at = max((t for t in other.complete if t <= last or _untrained(group)), default=-1)
    pairs = [(ours, theirs) for ours in group.runs for theirs in _partners(ours, group, other)]
    return _test(group, at, pairs, name)


def _test(
    group: Group, at: int, found: Sequence[tuple[Run, Run]], name: str, measure: str | None = None, none: str = ""
) -> Tested:
    """Compare our last iteration with one of theirs, which answer by a measure, or in their own way."""
    last, faults, pairs = group.complete[-1], [], []
    for ours, theirs in found:
        b, a = ours.at(last), theirs.at(at)
        if a is None or b is None or not (a.metrics and b.metrics):
            faults.append(f"{ours.name}: no iteration {last} here or {at} there")
            continue
        one = (outcomes(a.metrics, measure or a.own), outcomes(b.metrics, b.own))
        # Problems of one id may still be others: a source may number its lines.
        known = {ours.questions, theirs.questions} - {None}
        if one[0].keys() != one[1].keys() or len(known) > 1:
            faults.append(f"{ours.name} and {theirs.name} answered different problems")
            continue
        pairs.append(one)
    what = {
        "text": f"{group.label}, iteration {last}, against {name}",
        "group": group,
        "iteration": last,
        "against": at,
    }
    try:
        return Tested(**what, result=compare(pairs))
    except DataError as error:
        return Tested(**what, fault="; ".join(dict.fromkeys(faults)) or (none if not found else "") or str(error))


def _untrained(group: Group) -> bool:
    method = METHODS.get(group.runs[0].method or "")
    return method is not None and method.trained == "none"


def _partners(ours: Run, group: Group, other: Group) -> list[Run]:
    """The baseline's run of the same seed; of a single one, whichever seed it has."""
    same = [run for run in other.runs if run.seed == ours.seed]
    return same[:1] if same else list(other.runs) if len(other.runs) == len(group.runs) == 1 else []
