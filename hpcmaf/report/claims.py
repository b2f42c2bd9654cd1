"""The paper's claims, each put to one test on the runs at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from hpcmaf.evaluation.accuracy import MEASURES
from hpcmaf.report.compare import Finding, Values, family, paired
from hpcmaf.report.groups import Group, together
from hpcmaf.report.records import Run

# Those the claims are about: the method, and one finetuned model in its place.
MANY, ONE = "maft", "single-agent-ft"

Read = Callable[[Run], Values | None]


def claims(groups: Sequence[Group]) -> list[Finding]:
    """Test the paper's claims wherever there is one recipe of the method and of its single-agent counterpart each."""
    found: list[Finding] = []
    own = (group for group in groups if not group.any.transferred)
    for setting, here in together(own, lambda group: (*group.place, *group.any.size)).items():
        many, one = ([group for group in here if group.any.method.name == name] for name in (MANY, ONE))
        if len(many) == len(one) == 1 and any(t > 0 for t in _shared(*many, *one)):
            facts = dict(zip(("evaluated_on", "model", "agents", "rounds"), setting))
            tests = [
                Finding.of(pairs, scale, text=text, facts=facts | {"claim": text}, verdicts=("holds", "contrary"))
                for text, pairs, scale in _questions(*many, *one)
            ]
            # Of other problems there is no test.
            found += family([test for test in tests if test.result])
    return found


def _shared(a: Group, b: Group) -> set[int]:
    """Iterations of both, up to those that an alarm has kept."""
    last = min((run.kept for run in (*a.runs, *b.runs) if run.kept is not None), default=max(a.complete, default=0))
    return {t for t in a.complete if t in b.complete and t <= last}


def _questions(many: Group, one: Group) -> Iterator[tuple[str, list[tuple[Values, Values]], int]]:
    last = max(_shared(many, one))
    half, own = last // 2, many.at(last)[0].own
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
    yield f"{MANY} keeps more diversity (1 − consensus) than {ONE}, iteration {last}", pairs, many.any.size[0]


def _pairs(a: Group, before: Read, b: Group, after: Read) -> list[tuple[Values, Values]]:
    """Runs of two recipes, or of one with themselves, paired by seed."""
    runs = zip(b.runs, b.runs) if a is b else paired(b, a)
    found = [(before(other), after(run)) for run, other in runs if other.questions == run.questions]
    return [(left, right) for left, right in found if left is not None and right is not None]


def _right(t: int, measure: str | None = None) -> Read:
    """Which problems are right at iteration t, by a measure or the method's own."""
    return lambda run: iteration.right(measure) if (iteration := run.at(t)) else None


def _disagreeing(t: int) -> Read:
    """How many agents disagree with the vote at iteration t."""
    return lambda run: iteration.disagreeing if (iteration := run.at(t)) else None


def _gain(before: int, after: int) -> Read:
    """What each problem gains between two iterations."""

    def read(run: Run) -> Values | None:
        a, b = _right(before)(run), _right(after)(run)
        return None if a is None or b is None else {problem: b[problem] - a[problem] for problem in a.keys() & b.keys()}

    return read
