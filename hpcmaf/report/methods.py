"""One line per recipe: accuracy, spread over seeds, cost, the test against the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.compare import Tested
from hpcmaf.report.groups import NO_HINT, Group, Point
from hpcmaf.report.paired import LEVEL, TEST
from hpcmaf.report.reference import published
from hpcmaf.report.sections import cell, percent
from hpcmaf.report.table import NONE, Table

UNHINTED = (
    f"{NO_HINT.strip()}: compact prompts have no words for gold as a hint; "
    "a wrong answer was asked for again as before."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A recipe after its last iteration.

    Attributes
    ----------
    point
        Accuracy of its own way of answering: the vote of its last round.
    paper
        What the paper printed for it, as a share.
    """

    group: Group
    iteration: int
    point: Point
    tested: Tested | None
    paper: float | None


def rows(groups: Sequence[Group], tested: Sequence[Tested], reference: bool) -> list[Row]:
    """A row for each recipe with an iteration that all its runs have."""
    found = []
    for group in groups:
        if not group.complete:
            continue
        t = group.complete[-1]
        point = group.point(t)
        if point is None:
            continue
        run = group.runs[0]
        paper = published(run, t) if reference else None
        test = next((one for one in tested if one.group is group), None)
        found.append(Row(group, t, point, test, paper))
    return found


def ranks(values: Sequence[float]) -> list[int]:
    """1 for the best, 2 for the second, 0 for the rest; equals share their place."""
    distinct = sorted(set(values), reverse=True)[:2]
    return [distinct.index(value) + 1 if value in distinct else 0 for value in values]


def method_tables(found: Sequence[Row], baseline: str | None, reference: bool) -> list[Table]:
    """The comparison table of each task evaluated on and model."""
    tables = []
    for place in dict.fromkeys(row.group.place for row in found):
        here = [row for row in found if row.group.place == place]
        header = ["method", "iteration", "runs", "accuracy", "sd over runs"]
        header += ["paper"] * reference
        if baseline:
            header += TEST
        lines, faults = [], []
        latest = max((row.tested.against for row in here if row.tested), default=0)
        for row in here:
            cells = [row.group.line, str(row.iteration), str(row.point.runs)]
            cells += [cell(row.point), percent(row.point.spread)]
            cells += [percent(row.paper)] * reference
            if baseline:
                cells += row.tested.cells if row.tested else [NONE] * len(TEST)
                if row.tested and row.tested.fault:
                    faults.append(f"{row.group.line}: {row.tested.fault}.")
                elif row.tested and row.tested.against < latest:
                    faults.append(f"{row.group.line}: against iteration {row.tested.against} of {baseline}.")
            lines.append(tuple(cells))
        note = "Percent ± standard error over problems (of one run), after the last iteration that all runs have."
        if baseline:
            note += (
                f" Points against {baseline} on the same problems, runs paired by seed: bootstrap over problems; "
                "exact test (McNemar's; over seeds, sign flips by problem); Holm over this table."
            )
        if any(row.group.runs[0].transferred for row in here):
            note += f" What names no other task was trained on {place[0]}, or not at all."
        if any(row.group.runs[0].unhinted for row in here):
            note += f" {UNHINTED}"
        if reference:
            note += " Paper: its own value after as many iterations, on 500 problems of its own, where model, N, M "
            note += "and levels are its own too."
        title = f"Methods: {place[0]} · {place[1]}"
        tables.append(Table(title, tuple(header), tuple(lines), " ".join([note, *faults])))
    return tables


def cost_rows(group: Group) -> dict[str, Any] | None:
    """What a recipe cost up to its last complete iteration: means over the runs with whole ledgers."""
    last = group.complete[-1] if group.complete else None
    found = None if last is None else group.spent(last)
    return None if found is None else {"iteration": last} | found


def method_cost_table(groups: Sequence[Group]) -> Table | None:
    """Tokens and time per method, and accuracy beside it."""
    lines = []
    for group in groups:
        cost = cost_rows(group)
        if cost is None:
            continue
        point = group.point(cost["iteration"])
        # What is not measured has no price: one answer holds no debate.
        answering = [name for name in MEASURES if group.point(cost["iteration"], name)]
        lines.append(
            (
                group.label,
                str(cost["iteration"]),
                cell(point),
                *(f"{cost[name]:,.0f}" for name in ("generated", "trained")),
                f"{cost['gpu_seconds']:,.1f}" if cost["gpu_seconds"] else NONE,
                f"{cost['wall_seconds']:,.1f}",
                *(f"{cost[name]:,.0f}" if name in answering else NONE for name in MEASURES),
            )
        )
    if not lines:
        return None
    header = (
        *("method", "iteration", "accuracy", "tokens debated", "tokens trained", "GPU s", "wall s"),
        *("tokens per answer", "tokens per majority", "tokens per debate"),
    )
    note = (
        "Mean over runs, added up from iteration 1 on: debates on training problems (prompt and completion tokens) and "
        "finetuning; evaluation is not counted. GPU s is shown where GPUs were used; seconds are added up over jobs. "
        "Tokens per evaluation problem, prompts included, of each way of answering."
    )
    return Table("Cost by method", header, tuple(lines), note)


def task_tables(found: Sequence[Row], baseline: str | None, reference: bool) -> list[Table]:
    """Of each model its recipes, and a column for every task that they are evaluated on: what goes into a paper."""
    return [
        _task_table([row for row in found if row.group.place[1] == model], model, baseline, reference)
        for model in dict.fromkeys(row.group.place[1] for row in found)
    ]


def _task_table(found: Sequence[Row], model: str, baseline: str | None, reference: bool) -> Table:
    tasks = sorted({row.group.place[0] for row in found})
    transferred = any(row.group.runs[0].transferred for row in found)
    last = max(row.iteration for row in found)
    lines: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in found:
        group = row.group
        name = (group.recipe, group.runs[0].trained_on or NONE) if transferred else (group.line,)
        lines.setdefault(name, {}).setdefault(group.place[0], []).append(row)
    names = sorted(lines)
    cells, marks = [list(name) for name in names], {}
    for task in tasks:
        column = [lines[name].get(task, []) for name in names]
        # Compared as printed: a difference that is not visible is no first place.
        best = [max((round(100 * row.point.value, 2) for row in here), default=-1.0) for here in column]
        places = ranks([value for value in best if value >= 0])
        for at, here in enumerate(column):
            if here and (place := places.pop(0)):
                marks[at, len(cells[at])] = place
            cells[at].append(", ".join(_task_cell(row, last) for row in here) or NONE)
            if reference:
                cells[at].append(percent(next((row.paper for row in here if row.paper is not None), None)))
    header = ["method", *["trained on"] * transferred]
    header += [title for task in tasks for title in (task, *["paper"] * reference)]
    runs = sorted({row.point.runs for row in found})
    note = (
        "Percent: mean over runs ± standard error over evaluation problems, their population standard deviation "
        "over the square root of how many there are"
    )
    note += ", of one run, not how far runs differ" if runs != [1] else ""
    note += f". Iterations: {', '.join(map(str, sorted({row.iteration for row in found})))}; "
    note += f"runs each: {', '.join(map(str, runs))}."
    if transferred:
        note += " Columns: the task evaluated on. –: not trained, or not evaluated."
    if baseline:
        note += f" *: differs from {baseline} on the same problems (exact paired test, p (Holm) < {LEVEL})."
    if any(row.group.runs[0].unhinted for row in found):
        note += f" {UNHINTED}"
    return Table(f"Accuracy by task: {model}", tuple(header), tuple(map(tuple, cells)), note, marks)


def _task_cell(row: Row, last: int) -> str:
    """Mostly one to a cell; recipes that only other keys tell apart share it."""
    star = "*" if row.tested and row.tested.verdict != "open" else ""
    # Nobody learns in iteration 0, so that one needs no excuse.
    return cell(row.point) + star + ("" if row.iteration in (0, last) else f" (iteration {row.iteration})")
