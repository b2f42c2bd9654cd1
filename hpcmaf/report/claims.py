"""The paper's claims, each put to one test on the runs at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from hpcmaf.evaluation import MEASURES, outcomes
from hpcmaf.report.groups import Group
from hpcmaf.report.paired import TEST, Test, Values, family
from hpcmaf.report.records import Run
from hpcmaf.report.table import Table

# Those the claims are about: the method, and one finetuned model in its place.
MANY, ONE = "maft", "single-agent-ft"

Read = Callable[[Run], Values | None]
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
    size: tuple[int, int]


def claims(groups: Sequence[Group]) -> list[Claim]:
    """Test the paper's claims wherever there are both the method and its single-agent counterpart, of one N and M.

    Where several recipes of one of them differ in more than their seeds,
    nothing says which is meant, and nothing is claimed.
    """
    found: list[Claim] = []
    own = [group for group in groups if not group.any.transferred]
    for place, size in dict.fromkeys(map(_family, own)):
        here = [group for group in own if _family(group) == (place, size)]
        many, one = ([group for group in here if group.any.method.name == name] for name in (MANY, ONE))
        if len(many) == len(one) == 1 and any(t > 0 for t in _shared(*many, *one)):
            questions = _questions(*many, *one)
            tested = [Claim.of(pairs, scale, text=text, place=place, size=size) for text, pairs, scale in questions]
            # Of other problems there is no test; the table of methods says so.
            found += family([claim for claim in tested if claim.result])
    return found


def _family(group: Group) -> tuple[tuple[str, str], tuple[int, int]]:
    return group.place, (group.any.agents, group.any.rounds)


def _shared(a: Group, b: Group) -> set[int]:
    return {*a.complete} & {*b.complete}


def _questions(many: Group, one: Group) -> Iterator[Question]:
    last, own = max(_shared(many, one)), many.own
    half = last // 2
    if 0 in many.complete:
        for a, b in pairwise(name for name in MEASURES if many.point(0, name)):
            yield f"the base: {MEASURES[b]} above {MEASURES[a]}", _pairs(many, _right(0, a), many, _right(0, b)), 1
        yield f"{MANY} above the base's {MEASURES[own]}", _pairs(many, _right(0, own), many, _right(last)), 1
    yield f"{MANY} above {ONE}, iteration {last}", _pairs(one, _right(last), many, _right(last)), 1
    if half in _shared(many, one) and half > 0:
        for group, name in ((one, ONE), (many, MANY)):
            pairs = _pairs(group, _right(half), group, _right(last))
            yield f"{name} goes on improving, iteration {half} to {last}", pairs, 1
        gain = _gain(half, last)
        yield f"{MANY} improves more than {ONE}, iteration {half} to {last}", _pairs(one, gain, many, gain), 1
    # Both begin with the same society, so whose diversity is higher has lost less.
    pairs = _pairs(one, _disagreeing(last), many, _disagreeing(last))
    yield f"{MANY} keeps more diversity (1 − consensus) than {ONE}, iteration {last}", pairs, many.any.agents


def _pairs(a: Group, before: Read, b: Group, after: Read) -> list[tuple[Values, Values]]:
    """Runs of two recipes, or of one with themselves, paired by seed."""
    theirs = {run.seed: run for run in a.runs}
    found = []
    for run in b.runs:
        other = run if a is b else theirs.get(run.seed)
        if other is not None and other.questions == run.questions:
            found.append((before(other), after(run)))
    return [(left, right) for left, right in found if left is not None and right is not None]


def _right(t: int, measure: str | None = None) -> Read:
    """Which problems are right at iteration t, by a measure or the method's own."""

    def read(run: Run) -> Values | None:
        iteration = run.at(t)
        measured = iteration is not None and iteration.accuracy(measure) is not None
        return outcomes(iteration.metrics, measure or iteration.own) if measured else None

    return read


def _gain(before: int, after: int) -> Read:
    """What each problem gains between two iterations."""

    def read(run: Run) -> Values | None:
        a, b = _right(before)(run), _right(after)(run)
        return None if a is None or b is None else {problem: b[problem] - a[problem] for problem in a.keys() & b.keys()}

    return read


def _disagreeing(t: int) -> Read:
    """Of every problem, how many agents' final answers are not the final vote's."""

    def read(run: Run) -> Values | None:
        iteration = run.at(t)
        scores = iteration.metrics["scores"] if iteration else {}
        if scores.get("agreeing") is None:  # a run of an earlier version
            return None
        agents = len(iteration.metrics["rounds"][-1]["agents"])
        return dict(zip(scores["problem_ids"], (agents - count for count in scores["agreeing"]), strict=True))

    return read


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
