"""The tables of a single run, and of the runs of one recipe side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.compare import TEST, Test, family
from hpcmaf.report.cost import cost_table
from hpcmaf.report.groups import Group, Point
from hpcmaf.report.records import Run
from hpcmaf.report.table import NONE, Table, estimate, iteration_name, percent


def run_tables(run: Run) -> list[Table]:
    """What a single run shows."""
    rest = (comparison_table(run), signals_table(run), cost_table(run))
    return [accuracy_table(run), *(table for table in rest if table.rows)]


def accuracy_table(run: Run) -> Table:
    """Accuracy of each way of answering, iteration by iteration."""
    header = ("iteration", *MEASURES.values(), "mean critic", "consensus", "unparsable", "pseudo-labels")
    rows, problems, labels = [], set(), set()
    for iteration in run.evaluated:
        metrics = iteration.metrics
        measured = [*map(iteration.accuracy, MEASURES), iteration.mean_critic]
        shares = (percent(metrics["consensus"]), percent(metrics["unparsable"]))
        labelled = metrics["pseudo_labels"]
        rows.append((iteration_name(iteration.number), *map(estimate, measured), *shares, estimate(labelled)))
        problems.add(metrics["problems"])
        labels |= {labelled["problems"]} if labelled else set()
    note = f"Percent ± standard error, {_counts(problems)} problems."
    if labels:
        note += f" Pseudo-labels: the votes of the training debates, {_counts(labels)} problems."
    return Table(f"{run.name}: accuracy", header, tuple(rows), note)


def signals_table(run: Run) -> Table:
    """What iterations show without gold answers, and the alarm; without rows where there is but one."""
    rows = [
        (
            iteration_name(one.iteration),
            *map(percent, (one.agreement, one.distinct)),
            f"{one.length:,.1f}",
            *(NONE if share is None else percent(share) for share in (one.flips, one.overruled)),
            "; ".join(one.alarm) or NONE,
        )
        for one in run.readings
    ]
    header = ("iteration", "agreement", "distinct", "tokens", "agreed flips", "base overruled", "alarm")
    note = (
        "No gold answers are read. Agreement: agents whose last answer is the vote's. Distinct: different answers. "
        "Agreed flips: all agree, as the iteration before, on another answer. Base overruled: of what the base's "
        "agents agreed on, what has another vote now."
    )
    return Table(f"{run.name}: signs without gold answers", header, tuple(rows if len(rows) > 1 else ()), note)


def _counts(numbers: Iterable[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(numbers)) or NONE


@cache
def comparisons(run: Run) -> list[Test]:
    """The last iteration against the untouched base, on the same problems.

    A test for each measure that differs from the others: one answer is not
    its own vote once more.
    """
    return family(list(_comparisons(run)))


def _comparisons(run: Run) -> Iterator[Test]:
    first, last = run.at(0), run.last
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
    after = f"{MEASURES[run.last.own]} after iteration {run.last.number} " if run.last else ""
    rows = tuple((one.text, *one.cells) for one in tests)
    return Table(f"{run.name}: {after}against the untouched base", ("against", *TEST), rows, " ".join([note, *faults]))


def group_table(group: Group) -> Table:
    """Accuracy over the runs of one recipe, iteration by iteration."""
    rows = []
    for t in group.iterations:
        points = [group.point(t, measure) for measure in MEASURES]
        rows.append((iteration_name(t), str(len(group.at(t))), *map(_over_runs, points)))
    title = f"{group.label}: accuracy over {len(group.runs)} runs"
    note = "Percent: mean over runs ± standard error over problems (of one run) [lowest, highest run]."
    return Table(title, ("iteration", "runs", *MEASURES.values()), tuple(rows), note)


def _over_runs(point: Point | None) -> str:
    if point is None or point["runs"] == 1:
        return estimate(point)
    return f"{estimate(point)} [{percent(point['low'])}, {percent(point['high'])}]"
