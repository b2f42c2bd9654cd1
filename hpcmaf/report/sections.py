"""The tables of a recipe: accuracy, and of a single run the comparison with the base."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.compare import TEST, Test, family
from hpcmaf.report.cost import cost_table
from hpcmaf.report.groups import Group, Point
from hpcmaf.report.records import Run
from hpcmaf.report.table import NONE, Table, estimate, iteration_name, percent


def group_tables(group: Group) -> list[Table]:
    """What the runs of a recipe come to, and of a single one how it compares with the base, and its cost."""
    tables = [accuracy_table(group)]
    if len(group.runs) == 1:
        tables += [table for table in (comparison_table(group.any), cost_table(group.any)) if table.rows]
    return tables


def accuracy_table(group: Group) -> Table:
    """Accuracy of each way of answering, iteration by iteration."""
    rows, problems = [], set()
    for t in group.iterations:
        labels = group.over(t, lambda iteration: iteration.metrics["pseudo_labels"])
        points = (*(group.point(t, measure) for measure in MEASURES), labels)
        rows.append((iteration_name(t), str(len(group.at(t))), *map(_over_runs, points)))
        problems |= {iteration.metrics["problems"] for iteration in group.at(t)}
    several = len(group.runs) > 1
    title = f"{group.label}: accuracy over {len(group.runs)} runs" if several else f"{group.any.name}: accuracy"
    counts = " or ".join(f"{count:,}" for count in sorted(problems)) or NONE
    note = f"Percent: mean over runs ± standard error over {counts} problems (of one run) [lowest, highest run]."
    note += " Pseudo-labels: the votes of the training debates."
    return Table(title, ("iteration", "runs", *MEASURES.values(), "pseudo-labels"), tuple(rows), note)


def _over_runs(point: Point | None) -> str:
    if point is None or point["runs"] == 1:
        return estimate(point)
    return f"{estimate(point)} [{percent(point['low'])}, {percent(point['high'])}]"


@cache
def comparisons(run: Run) -> list[Test]:
    """The last iteration against the untouched base, on the same problems.

    A test for each measure that differs from the others: one answer is not
    its own vote once more.
    """
    return family(list(_comparisons(run)))


def _comparisons(run: Run) -> Iterator[Test]:
    first, last = run.at(0), run.final
    if first is None or last is None or first is last:
        return
    for measure in reversed(MEASURES):
        if base := first.accuracy(measure):
            of_base = {key: base[key] for key in ("agents", "rounds")}
            facts = {"iteration": last.number, "measure": measure, **of_base}
            pair = (first.right(measure), last.right())
            yield Test.of([pair], text=f"{MEASURES[measure]}, iteration 0", facts=facts)


def comparison_table(run: Run) -> Table:
    """McNemar's tests of the last iteration's answers; without rows where there are no two iterations to compare."""
    tests = comparisons(run)
    note = (
        "Gained, lost: problems only the later, only the earlier got right. 95 %: paired bootstrap over problems. "
        "p: exact McNemar test, two-sided; Holm over this table."
    )
    faults = dict.fromkeys(f"{one.text}: {one.fault}." for one in tests if one.fault)
    kept = " (kept)" * (run.kept is not None)
    after = f"{MEASURES[run.final.own]} after iteration {run.final.number}{kept} " if run.final else ""
    rows = tuple((one.text, *one.cells) for one in tests)
    return Table(f"{run.name}: {after}against the untouched base", ("against", *TEST), rows, " ".join([note, *faults]))
