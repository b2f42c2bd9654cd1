"""The comparison of methods: a line per recipe, with the paper's values and marks of what differs from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpcmaf.report.compare import LEVEL, Finding
from hpcmaf.report.groups import NO_HINT, Group, Point
from hpcmaf.report.table import NONE, Table, estimate, percent

UNHINTED = (
    f"{NO_HINT.strip()}: compact prompts have no words for gold as a hint; "
    "a wrong answer was asked for again as before."
)


class Row(NamedTuple):
    """A recipe after its final iteration: accuracy of its own way of answering, its test, what the paper printed."""

    group: Group
    point: Point
    tested: Finding | None
    paper: float | None


def method_tables(rows: Sequence[Row], baseline: str | None) -> list[Table]:
    """Of each model its recipes, and a column for every task that they are evaluated on: what goes into a paper."""
    quoted = any(row.paper is not None for row in rows)
    return [
        _table([row for row in rows if row.group.place[1] == model], model, baseline, quoted)
        for model in dict.fromkeys(row.group.place[1] for row in rows)
    ]


def _table(found: Sequence[Row], model: str, baseline: str | None, reference: bool) -> Table:
    tasks = sorted({row.group.place[0] for row in found})
    transferred = any(row.group.any.transferred for row in found)
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in found:
        name = (row.group.recipe, row.group.any.trained_on or NONE) if transferred else (row.group.recipe,)
        lines.setdefault(name, {})[row.group.place[0]] = row
    cells = [
        (*name, *(cell for task in tasks for cell in _cells(here.get(task), reference)))
        for name, here in sorted(lines.items())
    ]
    header = ["method", *["trained on"] * transferred]
    header += [title for task in tasks for title in (task, *["paper"] * reference)]
    runs = sorted({row.point["runs"] for row in found})
    ended = dict.fromkeys(row.group.ended for row in sorted(found, key=lambda row: row.group.numbers))
    note = "Percent: mean over runs ± standard error" if runs != [1] else "Percent ± standard error"
    note += " over evaluation problems, their population standard deviation over the square root of how many there are"
    note += ", of one run, not how far runs differ" if runs != [1] else ""
    note += f". Iterations: {', '.join(ended)}; runs each: {', '.join(map(str, runs))}."
    if transferred:
        note += " Columns: the task evaluated on. –: not trained, or not evaluated."
    if any("kept" in row.group.ended for row in found):
        note += " (kept): after the one that the alarm kept, of each run."
    if reference:
        note += " Paper: its value after as many iterations, on 500 problems of its own, where its settings are these."
    if baseline:
        note += f" *: differs from {baseline} on the same problems (exact paired test, p (Holm) < {LEVEL})."
    if any(row.group.any.unhinted for row in found):
        note += f" {UNHINTED}"
    return Table(f"Methods: {model}", tuple(header), tuple(cells), note)


def _cells(row: Row | None, reference: bool) -> list[str]:
    if row is None:
        return [NONE] * (1 + reference)
    mark = "*" * (row.tested is not None and row.tested.verdict != "open")
    return [estimate(row.point) + mark, *[percent(row.paper)] * reference]
