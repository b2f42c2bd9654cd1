"""The tables of a report: figures with their errors, differences with their tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hpcmaf.errors import DataError
from hpcmaf.evaluation import MEASURES, Comparison, compare, holm, outcomes
from hpcmaf.report.groups import Group, Point
from hpcmaf.report.records import Iteration, Run
from hpcmaf.report.tables import Table

NONE = "–"
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


def p_value(p: float) -> str:
    """Three decimals, or two digits of a small one; never a bare zero."""
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.1e}" if p >= 1e-99 else "< 1e-99"


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


def comparisons(run: Run) -> list[dict[str, Any]]:
    """The last iteration against the untouched base, on the same problems.

    Computed once for a run, which keeps them. A test for each measure that
    differs from the others: one answer is not its own vote once more.

    Returns
    -------
    list of dict
        ``measure`` of iteration 0 compared with, its ``agents`` and
        ``rounds``; ``difference`` of the accuracies; ``gained`` and ``lost`` problems, ``low`` and ``high`` of
        the 95 % interval, ``p`` (exact McNemar test, two-sided) and ``p_holm``
        over the measures, or ``fault``: why there is no test.
    """
    if run.tests is None:
        run.tests = list(_comparisons(run))
    return run.tests


def _comparisons(run: Run) -> Iterator[dict[str, Any]]:
    first, last = run.at(0), run.last
    if first is None or last is None or first is last or not (first.metrics and last.metrics):
        return
    found = []
    after = last.metrics["accuracy"][last.own]["value"]
    for measure in [name for name in reversed(MEASURES) if name in first.metrics["accuracy"]]:
        before = first.metrics["accuracy"][measure]
        shape = {"agents": before["agents"], "rounds": before["rounds"]}
        result = {"iteration": last.number, "measure": measure} | shape | {"difference": after - before["value"]}
        try:
            found.append((result, compare([(outcomes(first.metrics, measure), outcomes(last.metrics, last.own))])))
        except DataError as error:
            yield result | {"fault": str(error)}
    for (result, test), p in zip(found, holm([test.p for _, test in found]), strict=True):
        figures = {name: getattr(test, name) for name in ("low", "high", "gained", "lost", "p")}
        yield result | figures | {"p_holm": p}


TEST = ("points", "95 %", "gained", "lost", "p", "p (Holm)")


def points(difference: float, low: float, high: float) -> tuple[str, str]:
    """A difference in percentage points and its interval."""
    return f"{100 * difference:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}"


def test_cells(test: Comparison, p_holm: float) -> tuple[str, ...]:
    """What stands below ``TEST``."""
    difference = points(test.difference, test.low, test.high)
    return *difference, str(test.gained), str(test.lost), p_value(test.p), p_value(p_holm)


def comparison_table(run: Run) -> Table | None:
    """McNemar's tests of the last iteration's debate; ``None`` without two iterations to compare."""
    rows, faults = [], []
    for one in comparisons(run):
        name = f"{MEASURES[one['measure']]}, iteration 0"
        if "fault" in one:
            # A difference without its test is not shown.
            rows.append((name, *[NONE] * 6))
            faults.append(f"{name}: {one['fault']}.")
        else:
            cells = points(one["difference"], one["low"], one["high"])
            counts = (str(one["gained"]), str(one["lost"]))
            rows.append((name, *cells, *counts, p_value(one["p"]), p_value(one["p_holm"])))
    if not rows or run.last is None:
        return None
    header = ("against", *TEST)
    note = (
        "Gained, lost: problems only the later, only the earlier got right. 95 %: paired bootstrap over problems. "
        "p: exact McNemar test, two-sided; Holm over this table."
    )
    title = f"{run.name}: {MEASURES[run.last.own]} after iteration {run.last.number} against the untouched base"
    return Table(title, header, tuple(rows), " ".join([note, *dict.fromkeys(faults)]))


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
