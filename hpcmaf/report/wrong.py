"""What debates make of problems on which the first vote is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpcmaf.evaluation.spread import Ratio, ratio
from hpcmaf.report.groups import Group
from hpcmaf.report.records import Iteration
from hpcmaf.report.sections import cell, iteration_name
from hpcmaf.report.tables import Table


def errors_table(group: Group) -> Table | None:
    """Whether a wrong vote had a right answer beside it, and whether the last vote found it.

    A debate can only pick what somebody has said, or work the problem out
    anew. Which of the two there was to do says why critics gain much or
    little: nothing to pick, or right answers that they let go.
    """
    rows = []
    for t in group.complete:
        found = [i for i in group.at(t) if _rounds(i) > 1]
        if not found:
            continue
        cells = [cell(group.over(t, _wrong))]
        for figure in (_said, _picked, _made):
            of = sum(value["of"] for value in map(figure, found) if value is not None)
            cells.append(cell(group.over(t, figure), of))
        rows.append((iteration_name(t), *cells))
    if not rows:
        return None
    note = (
        "Percent ± standard error over problems, of how many in brackets. First vote wrong: the majority of the first "
        "answers. Somebody right: of those problems, where an agent's first answer is right. Then found, and found "
        "though nobody had it: the last round's vote is right after all."
    )
    header = ("iteration", "first vote wrong", "somebody right", "then found", "found though nobody had it")
    return Table(f"{group.label}: where the first vote is wrong", header, tuple(rows), note)


def _rounds(iteration: Iteration) -> int:
    return len((iteration.metrics or {}).get("scores", {}).get("agents") or [])


def _shares(read: Callable[[bool, bool], tuple[int, int]]) -> Callable[[Iteration], Ratio | None]:
    """A ratio over problems whose first vote is wrong; ``read`` gets whether somebody is right, and the last vote."""

    def figure(iteration: Iteration) -> Ratio | None:
        if _rounds(iteration) < 2:
            return None
        scores: dict[str, Any] = (iteration.metrics or {})["scores"]
        first = ["1" in each for each in zip(*scores["agents"][0], strict=True)]
        pairs = zip(first, *iteration.votes, strict=True)
        counts = [read(said, last == "1") if vote == "0" else (0, 0) for said, vote, last in pairs]
        return ratio([count for count, _ in counts], [of for _, of in counts])

    return figure


_said = _shares(lambda said, last: (int(said), 1))
_picked = _shares(lambda said, last: (int(said and last), int(said)))
_made = _shares(lambda said, last: (int(last and not said), int(not said)))


def _wrong(iteration: Iteration) -> Ratio | None:
    if _rounds(iteration) < 2:
        return None
    first, _ = iteration.votes
    return ratio([int(vote == "0") for vote in first], [1] * len(first))
