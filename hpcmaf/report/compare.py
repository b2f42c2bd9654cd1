"""Paired tests, in a table, in a sentence and in JSON; and every recipe against a baseline of the reader's choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from hpcmaf.debate.methods import METHODS
from hpcmaf.errors import DataError, UsageError
from hpcmaf.evaluation.accuracy import measures_of
from hpcmaf.evaluation.significance import Comparison, compare, holm
from hpcmaf.report.groups import Group, together
from hpcmaf.report.records import Iteration, Run

# A difference is one where the adjusted p is below this.
LEVEL = 0.05
# Of each problem whether it is right, or another whole number.
Values = Mapping[str, int]
# A run, the run that it is compared with, and which iteration of that.
_Pair = tuple[Run, Run, Iteration | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Whether something is above something else, on the same problems.

    Attributes
    ----------
    text, facts
        What is compared, in words and for programs.
    verdicts
        What holds where the one is above the other, and where it is below.
    result
        ``None`` where there is no test; ``fault`` says why.
    p_holm
        Adjusted for all tests of its family.
    group
        Of a recipe against the baseline: the recipe.
    """

    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    verdicts: tuple[str, str] = ("above", "below")
    result: Comparison | None = None
    fault: str | None = None
    p_holm: float | None = None
    group: Group | None = None

    @classmethod
    def of(cls, pairs: Sequence[tuple[Values, Values]], scale: int = 1, fault: str = "", **what: Any) -> Finding:
        """Test pairs of runs; where they cannot be compared, ``fault`` says why, or else the comparison does."""
        try:
            return cls(result=compare(pairs, scale), **what)
        except DataError as error:
            return cls(fault=fault or str(error), **what)

    @property
    def verdict(self) -> str:
        """One of ``verdicts``, or ``open``: these problems do not tell."""
        if self.result is None or self.p_holm is None or self.p_holm >= LEVEL:
            return "open"
        return self.verdicts[self.result.difference <= 0]

    @property
    def sentence(self) -> str:
        """The test in words, or why there is none."""
        if self.result is None or self.p_holm is None:
            return f"{self.text}: {self.fault}"
        difference, low, high, gained, lost, _, pairs = self.result
        runs, p = f", {pairs} runs" * (pairs > 1), p_value(self.p_holm)
        interval = f"{100 * low:+.2f} to {100 * high:+.2f}; {gained} gained, {lost} lost{runs}"
        return f"{self.text}: {100 * difference:+.2f} points ({interval}), p {'' if p[0] == '<' else '= '}{p}"

    def to_json(self) -> dict[str, Any]:
        """What it is about, and its values or its fault."""
        values = {"fault": self.fault} if self.result is None else self.result._asdict() | {"p_holm": self.p_holm}
        return {**self.facts, "verdict": self.verdict, **values}


def family(tests: Sequence[Finding]) -> list[Finding]:
    """Tests with p values adjusted for how many of them there are (Holm)."""
    adjusted = iter(holm([one.result.p for one in tests if one.result]))
    return [replace(one, p_holm=next(adjusted)) if one.result else one for one in tests]


def p_value(p: float) -> str:
    """Three decimals, or two digits of a small one; never a bare zero."""
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.1e}" if p >= 1e-99 else "< 1e-99"


def paired(group: Group, other: Group) -> list[tuple[Run, Run]]:
    """Runs of two recipes by their seeds; of a single run each, whichever seeds they have."""
    if len(group.runs) == len(other.runs) == 1:
        return [(group.any, other.any)]
    by_seed = {run.recipe.seed: run for run in reversed(other.runs)}
    return [(run, by_seed[run.recipe.seed]) for run in group.runs if run.recipe.seed in by_seed]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What all are compared with: of each task and model at most one group, or the base that answers by a measure."""

    name: str
    groups: tuple[Group, ...] = ()
    measure: str = ""


# The untouched base's ways to answer.
OF_THE_BASE = {
    "base": Baseline("the base's one answer", measure="answer"),
    "majority": Baseline("the base's majority", measure="vote@1"),
    "debate": Baseline("the base's debate", measure="vote@M"),
}


def find_baseline(name: str, groups: Sequence[Group]) -> Baseline:
    """Find a baseline: one of the base's own, a run by its name, a recipe by its label, or a method.

    A method is looked for at each task evaluated on: there it is the recipe that was trained on that task, and one
    trained on another only where no such recipe is.

    Raises
    ------
    UsageError
        There is none, or it is not one of a task and model.
    """
    if name in OF_THE_BASE:
        return OF_THE_BASE[name]
    found = []
    for here in together(groups, attrgetter("place")).values():
        called = [group for group in here if name in (group.label, group.line, *(run.name for run in group.runs))]
        methods = [group for group in here if group.any.method.name == name]
        found += called or [group for group in methods if not group.any.transferred] or methods
    if len({group.place for group in found}) < len(found):
        labels = ", ".join(repr(group.label) for group in found)
        raise UsageError(f"--baseline {name}: could be any of {labels}; name one of them")
    if not found:
        known = ", ".join(dict.fromkeys([*(group.line for group in groups), *OF_THE_BASE]))
        raise UsageError(f"--baseline {name}: neither a run nor a method here; name one of {known}")
    return Baseline(name, tuple(found))


def against(baseline: Baseline, groups: Sequence[Group]) -> list[Finding]:
    """Test each recipe's final iteration against the baseline's.

    Runs are paired by seed; where seeds do not pair, by problems. The baseline gives the iteration that its alarm kept,
    or its last one up to the recipe's own, so that no method is compared with a society that was trained for longer;
    what is not trained is compared with the last. The base is taken from any run whose iteration 0 has it, see
    :func:`shows_base`; where none has, there is no test. Holm's adjustment covers the recipes evaluated on one task
    with one model.
    """
    found: list[Finding] = []
    for here in together(groups, attrgetter("place")).values():
        other = next((group for group in baseline.groups if group in here), None)
        if other is None and baseline.groups:
            continue
        runs = [run for group in here for run in group.runs]
        tests = []
        for group in here:
            if group.final and group is not other and not _is_base(group, baseline.measure):
                pairs = _theirs(group, other) if other else _bases(group, runs, baseline.measure)
                tests.append(_test(group, pairs, baseline))
        found += family(tests)
    return found


def gains(groups: Sequence[Group]) -> list[Finding]:
    """Test each recipe's final iteration against every way of the base to answer that was measured."""
    ways = reversed(OF_THE_BASE.values())
    return family([one for way in ways for one in against(way, groups) if one.result])


def shows_base(run: Run, measure: str) -> bool:
    """Whether a run's iteration 0 measures how the plain base answers: by prompts and sampling as of method debate."""
    base = run.at(0)
    fields = ["ids", "temperature", *(["summaries", "critic_style"] if measure == "vote@M" else [])]
    alike = all(getattr(run.method, field) == getattr(METHODS["debate"], field) for field in fields)
    return alike and base is not None and measure in base.values


def _is_base(group: Group, measure: str) -> bool:
    """Whether the last that a recipe has is the base's own way to answer."""
    return group.numbers == [0] and group.at(0)[0].own == measure and shows_base(group.any, measure)


def _bases(group: Group, runs: Sequence[Run], measure: str) -> list[_Pair]:
    """Each run of a recipe with the iteration 0 that measures the base as it would debate."""
    found = []
    for run in group.runs:
        bases = [one for one in runs if one.prompted == run.prompted and shows_base(one, measure)]
        size = measures_of(*run.size).get(measure)
        bases = [one for one in bases if size == tuple(one.at(0).values[measure][key] for key in ("agents", "rounds"))]
        # Its own iteration 0, or that of a run of its seed; any run's where the recipe has no other run.
        same = [one for one in bases if one is run] + [one for one in bases if one.recipe.seed == run.recipe.seed]
        found += [(run, one, one.at(0)) for one in (same or (bases if len(group.runs) == 1 else []))[:1]]
    return found


def _theirs(group: Group, other: Group) -> list[_Pair]:
    """Each run of a recipe with a run of the baseline, and the iteration of that which is compared."""
    untrained = group.any.method.trained == "none"
    at = max((t for t in other.complete if t <= group.numbers[-1] or untrained), default=-1)
    return [(run, one, one.at(at if one.kept is None else one.kept)) for run, one in paired(group, other)]


def _test(group: Group, found: Sequence[_Pair], baseline: Baseline) -> Finding:
    """Compare our final iterations with theirs, which answer by a measure, or in their own way."""
    name, measure, (agents, rounds) = baseline.name, baseline.measure, group.any.size
    faults, pairs, numbers = [], [], {0}
    for ours, theirs, before in found:
        after = group.final.get(ours)
        # Problems of one id may still be others: a source may number its lines.
        if before is None or after is None or ours.questions != theirs.questions:
            faults.append(f"{ours.name} and {theirs.name} have no two iterations on the same problems")
            continue
        pairs.append((before.right(measure), after.right()))
        numbers.add(before.number)
    if measure and not found:
        of = {"vote@1": f" of {agents} agents", "vote@M": f" of {agents} agents in {rounds} rounds"}.get(measure, "")
        faults.append(f"{name}{of} was not measured in these runs")
    at = max(numbers)
    theirs = f", iteration {at}" if at not in (0, *group.numbers) else ""
    text = f"{group.label}, iteration {group.ended}, against {name}{theirs}"
    facts = {"label": group.label, "iteration": group.numbers[-1], "baseline": name, "baseline_iteration": at}
    return Finding.of(pairs, fault="; ".join(dict.fromkeys(faults)), text=text, facts=facts, group=group)
