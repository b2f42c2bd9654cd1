"""What was learned on one task, asked about another: trained on x evaluated on."""

from __future__ import annotations

from collections.abc import Sequence

from hpcmaf.report.methods import Row
from hpcmaf.report.sections import NONE, estimate
from hpcmaf.report.tables import Table

_NOTE = (
    "Percent: mean over runs ± standard error over problems (of one run), after the last iteration that all runs have. "
    "Columns: the task evaluated on. –: not trained, or not evaluated. Whether figures of one column differ is tested, "
    "on the same problems, by the methods' tables of a report with a baseline."
)


def transfer_tables(rows: Sequence[Row]) -> list[Table]:
    """Of each model that was evaluated on another task than it was trained on, all its recipes."""
    tables = []
    for model in dict.fromkeys(row.group.place[1] for row in rows):
        here = [row for row in rows if row.group.place[1] == model]
        if any(row.group.runs[0].transferred for row in here):
            tables.append(_table(model, here))
    return tables


def _table(model: str, rows: Sequence[Row]) -> Table:
    tasks = sorted({row.group.place[0] for row in rows})
    lines: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        name = (row.group.recipe, row.group.runs[0].trained_on or NONE)
        lines.setdefault(name, {}).setdefault(row.group.place[0], []).append(row)
    last = max(row.iteration for row in rows)
    cells = [(*name, *(_cell(lines[name].get(task, []), last) for task in tasks)) for name in sorted(lines)]
    header = ("method", "trained on", *tasks)
    return Table(f"Transfer: {model}", header, tuple(cells), _NOTE)


def _cell(rows: Sequence[Row], last: int) -> str:
    """Mostly one figure; recipes that only other keys tell apart share a cell."""
    shown = []
    for row in rows:
        figure = estimate({"value": row.point.value, "se": row.point.se})
        # Nobody learns in iteration 0, so that one needs no excuse.
        shown.append(figure if row.iteration in (0, last) else f"{figure} (iteration {row.iteration})")
    return ", ".join(shown) or NONE
