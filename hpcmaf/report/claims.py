"""The paper's claims, each put to one test on the runs at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from hpcmaf.errors import DataError
from hpcmaf.evaluation import MEASURES, compare, outcomes
from hpcmaf.report.groups import Group
from hpcmaf.report.paired import TEST, Test, family
from hpcmaf.report.records import Run
from hpcmaf.report.table import Table

# Those the claims are about: the method, and one finetuned model in its place.
MANY, ONE = "maft", "single-agent-ft"

Values = Mapping[str, int]
Question = tuple[str, list[tuple[Values, Values]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Test):
    """One claim, that the result's ``b`` is above its ``a``; its family are all claims of the place, N and M.

    Attributes
    ----------
    place
        Task evaluated on, and model.
    size
        N and M.
    """

    VERDICTS: ClassVar[tuple[str, str]] = ("holds", "contrary")

    place: tuple[str, str]
    size: tuple[int | None, int | None]


def claims(groups: Sequence[Group]) -> list[Claim]:
    """Test the paper's claims wherever there are both the method and its single-agent counterpart, of one N and M.

    Where several recipes of one of them differ in more than their seeds,
    nothing says which is meant, and nothing is claimed.
    """
    found: list[Claim] = []
    for place in dict.fromkeys(group.place for group in groups):
        here = [group for group in groups if group.place == place and not group.runs[0].transferred]
        for size in dict.fromkeys((group.runs[0].agents, group.runs[0].rounds) for group in here):
            of_size = [group for group in here if (group.runs[0].agents, group.runs[0].rounds) == size]
            many, one = (_only(name, of_size) for name in (MANY, ONE))
            if many is None or one is None or not any(t > 0 for t in set(many.complete) & set(one.complete)):
                continue
            tested = []
            for text, pairs, scale in _questions(many, one):
                try:
                    tested.append(Claim(text=text, result=compare(pairs, scale), place=place, size=size))
                except DataError:
                    continue  # not the same problems; the table of methods says so
            found += family(tested)
    return found


def _only(method: str, groups: Sequence[Group]) -> Group | None:
    found = [group for group in groups if group.runs[0].method == method]
    return found[0] if len(found) == 1 else None


def _questions(many: Group, one: Group) -> Iterator[Question]:
    last = max(set(many.complete) & set(one.complete))
    half = last // 2
    own = many.own
    if 0 in many.complete:
        for a, b in pairwise(name for name in MEASURES if many.point(0, name)):
            yield f"the base: {MEASURES[b]} above {MEASURES[a]}", _within(many, (0, a), (0, b)), 1
        yield f"{MANY} above the base's {MEASURES[own]}", _within(many, (0, own), (last, own)), 1
    yield f"{MANY} above {ONE}, iteration {last}", _between(one, many, lambda run: _right(run, last)), 1
    if half in many.complete and half in one.complete and half > 0:
        for group, name in ((one, ONE), (many, MANY)):
            pairs = _within(group, (half, own), (last, own))
            yield f"{name} goes on improving, iteration {half} to {last}", pairs, 1
        pairs = _between(one, many, lambda run: _gain(run, half, last))
        yield f"{MANY} improves more than {ONE}, iteration {half} to {last}", pairs, 1
    # Both begin with the same society, so whose diversity is higher has lost less.
    pairs = _between(one, many, lambda run: _disagreeing(run, last))
    if pairs:
        text = f"{MANY} keeps more diversity (1 − consensus) than {ONE}, iteration {last}"
        yield text, pairs, many.runs[0].agents or 1


def _within(group: Group, before: tuple[int, str], after: tuple[int, str]) -> list[tuple[Values, Values]]:
    """Two iterations or measures of the same runs."""
    found = []
    for run in group.runs:
        a, b = run.at(before[0]), run.at(after[0])
        if a is not None and b is not None:
            found.append((outcomes(a.metrics or {}, before[1]), outcomes(b.metrics or {}, after[1])))
    return found


def _between(a: Group, b: Group, values: Callable[[Run], Values | None]) -> list[tuple[Values, Values]]:
    """Runs of two recipes, paired by seed."""
    theirs = {run.seed: run for run in a.runs}
    found = []
    for run in b.runs:
        other = theirs.get(run.seed)
        if other is None or (other.questions and run.questions and other.questions != run.questions):
            continue
        left, right = values(other), values(run)
        if left is not None and right is not None:
            found.append((left, right))
    return found


def _right(run: Run, t: int) -> Values | None:
    iteration = run.at(t)
    return None if iteration is None else outcomes(iteration.metrics or {}, iteration.own)


def _gain(run: Run, before: int, after: int) -> Values | None:
    a, b = _right(run, before), _right(run, after)
    return None if a is None or b is None else {problem: b[problem] - a[problem] for problem in a.keys() & b.keys()}


def _disagreeing(run: Run, t: int) -> Values | None:
    """Of every problem, how many agents' final answers are not the final vote's."""
    iteration = run.at(t)
    metrics = (iteration.metrics if iteration else None) or {}
    agreeing = metrics.get("scores", {}).get("agreeing")
    if agreeing is None:
        return None
    agents = len(metrics["rounds"][-1]["agents"])
    return {problem: agents - count for problem, count in zip(metrics["scores"]["problem_ids"], agreeing, strict=True)}


def claim_tables(found: Sequence[Claim]) -> list[Table]:
    """One table for each place, N and M."""
    tables = []
    families = list(dict.fromkeys((claim.place, claim.size) for claim in found))
    for place, size in families:
        here = [claim for claim in found if (claim.place, claim.size) == (place, size)]
        rows = tuple((claim.text, *claim.cells, claim.verdict) for claim in here)
        runs = max(claim.result.pairs for claim in here)
        note = (
            f"Paired by problem, over {runs} run{'s' * (runs != 1)}, those of two methods by seed: percentage points, "
            "bootstrap interval over problems, exact two-sided test (sign flips by problem), Holm over this table. "
            "Gained, lost: problems that count for the claim, and against it. Open: not decided at 5 percent; where "
            "something is claimed to go on improving, the interval says how much it can be at most. The tests speak "
            "about these trained models; how far training again differs is the spread over runs."
        )
        header = ("claim", *TEST, "verdict")
        several = sum(one == place for one, _ in families) > 1
        title = " · ".join([f"Claims: {place[0]}", place[1], *([f"N = {size[0]}, M = {size[1]}"] if several else [])])
        tables.append(Table(title, header, rows, note))
    return tables
