"""The tables of a report: values with their errors, differences with their tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hpcmaf.errors import DataError
from hpcmaf.evaluation import MEASURES, compare, outcomes
from hpcmaf.report.groups import Group, Point
from hpcmaf.report.paired import TEST, Test, family
from hpcmaf.report.records import Iteration, Run
from hpcmaf.report.table import NONE, Table

_TITLES = tuple(MEASURES.values())


def percent(share: float | None) -> str:
    """``0.5`` as ``50.00``."""
    return NONE if share is None else f"{100 * share:.2f}"


def estimate(figure: Mapping[str, float] | None) -> str:
    """A share and its standard error, in percent: ``50.00 ± 2.24``."""
    return NONE if figure is None else f"{percent(figure['value'])} ± {percent(figure['se'])}"


def cell(point: Point | None, count: int | None = None) -> str:
    """Percent ± standard error over problems; of how many, where that is not plain."""
    if point is None:
        return NONE if count is None else f"{NONE} (of 0)"
    shown = estimate({"value": point.value, "se": point.se})
    return shown if count is None else f"{shown} (of {count:,})"


def iteration_name(t: int) -> str:
    """The untouched base is iteration 0."""
    return "0 (base)" if t == 0 else str(t)


def accuracy_table(run: Run) -> Table:
    """Accuracy of each way of answering, iteration by iteration."""
    header = ("iteration", *_TITLES, "mean critic", "consensus", "unparsable", "pseudo-labels")
    rows = []
    for iteration in run.evaluated:
        metrics = iteration.metrics or {}
        rows.append(
            (
                iteration_name(iteration.number),
                *(estimate(iteration.accuracy(measure)) for measure in MEASURES),
                estimate(iteration.mean_critic),
                percent(metrics["consensus"]),
                percent(metrics["unparsable"]),
                estimate(metrics["pseudo_labels"]),
            )
        )
    found = [iteration.metrics for iteration in run.evaluated if iteration.metrics]
    note = f"Percent ± standard error, {_counts(metrics['problems'] for metrics in found)} problems."
    labels = [metrics["pseudo_labels"]["problems"] for metrics in found if metrics["pseudo_labels"]]
    if labels:
        note += f" Pseudo-labels: the votes of the training debates, {_counts(labels)} problems."
    return Table(f"{run.name}: accuracy", header, tuple(rows), note)


def _counts(numbers: Iterable[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(set(numbers))) or NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Test):
    """A run's last iteration against a way in which its untouched base answers.

    Attributes
    ----------
    measure
        Of the base.
    """

    iteration: int
    measure: str


def comparisons(run: Run) -> list[Step]:
    """The last iteration against the untouched base, on the same problems; computed once for a run.

    A test for each measure that differs from the others: one answer is not
    its own vote once more.
    """
    if run.tests is None:
        run.tests = family(list(_comparisons(run)))
    return run.tests


def _comparisons(run: Run) -> Iterator[Step]:
    first, last = run.at(0), run.last
    if first is None or last is None or first is last or not (first.metrics and last.metrics):
        return
    for measure in [name for name in reversed(MEASURES) if name in first.metrics["accuracy"]]:
        what = {"text": f"{MEASURES[measure]}, iteration 0", "iteration": last.number, "measure": measure}
        try:
            result = compare([(outcomes(first.metrics, measure), outcomes(last.metrics, last.own))])
        except DataError as error:
            yield Step(**what, fault=str(error))
        else:
            yield Step(**what, result=result)


def comparison_table(run: Run) -> Table | None:
    """McNemar's tests of the last iteration's debate; ``None`` without two iterations to compare."""
    tests = comparisons(run)
    if not tests or run.last is None:
        return None
    note = (
        "Gained, lost: problems only the later, only the earlier got right. 95 %: paired bootstrap over problems. "
        "p: exact McNemar test, two-sided; Holm over this table."
    )
    faults = dict.fromkeys(f"{one.text}: {one.fault}." for one in tests if one.fault)
    title = f"{run.name}: {MEASURES[run.last.own]} after iteration {run.last.number} against the untouched base"
    rows = tuple((one.text, *one.cells) for one in tests)
    return Table(title, ("against", *TEST), rows, " ".join([note, *faults]))


def cost_table(run: Run) -> Table | None:
    """Tokens and time per iteration; ``None`` without a ledger."""
    costed = [iteration for iteration in run.iterations if iteration.cost is not None]
    if not costed:
        return None
    rows = [(iteration_name(iteration.number), *_cost_cells(iteration)) for iteration in costed]
    header = ("iteration", "prompt tokens", "completion tokens", "training tokens", "wall s", "GPU s", "peak GiB")
    note = "Seconds are added up over jobs, also over those that ran side by side."
    return Table(f"{run.name}: cost", header, tuple(rows), note)


def _cost_cells(iteration: Iteration) -> tuple[str, ...]:
    cost = iteration.cost or {}
    tokens = (f"{int(cost[name]):,}" for name in ("prompt_tokens", "completion_tokens", "training_tokens"))
    peak = f"{cost['peak_memory_bytes'] / 2**30:.2f}" if cost["peak_memory_bytes"] else NONE
    gpu = f"{cost['gpu_seconds']:,.1f}" if cost["gpu_seconds"] else NONE
    return *tokens, f"{cost['wall_seconds']:,.1f}", gpu, peak


def run_tables(run: Run) -> list[Table]:
    """What a single run shows."""
    found = (accuracy_table(run), comparison_table(run), cost_table(run))
    return [table for table in found if table is not None]


def _over_runs(point: Point | None) -> str:
    if point is None:
        return NONE
    cell = estimate({"value": point.value, "se": point.se})
    return cell if point.runs == 1 else f"{cell} [{percent(point.low)}, {percent(point.high)}]"


OVER_RUNS = "Percent: mean over runs ± standard error over problems (of one run) [lowest, highest run]."


def group_table(group: Group) -> Table:
    """Accuracy over the runs of one recipe, iteration by iteration."""
    rows = []
    for t in group.iterations:
        points = [group.point(t, measure) for measure in MEASURES]
        rows.append((iteration_name(t), str(len(group.at(t))), *map(_over_runs, points)))
    title = f"{group.label}: accuracy over {len(group.runs)} runs"
    return Table(title, ("iteration", "runs", *_TITLES), tuple(rows), OVER_RUNS)
