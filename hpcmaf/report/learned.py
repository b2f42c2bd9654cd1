"""What agents learned from: samples kept, their kinds, what was left out, and where that is too little."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from hpcmaf.debate.health import VALUES, evaluated, health_warnings, selected, written
from hpcmaf.debate.methods import METHODS
from hpcmaf.evaluation.alarm import alarm_line
from hpcmaf.report.groups import Group
from hpcmaf.report.records import Iteration, Run
from hpcmaf.report.table import NONE, Table

COLUMNS = {
    "kept": "kept",
    "kept_positives": "D+",
    "kept_negatives": "D−",
    "realised_w": "w",
    "dropped_too_long": "too long",
    "cut_off": "cut off",
    "samples": "trained on",
}
_NOTE = (
    "Samples of each agent: kept by selection; of these first answers or trajectories that were right all along (D+) "
    "and such that began wrong (D−); their share w; dropped because they were longer than training.max_length; "
    "responses cut off at the token limit; trained on. –: a run of an earlier version does not say."
)


def learned(iteration: Iteration) -> dict[str, dict[str, Any]]:
    """Of each agent finetuned the columns' values; a run of an earlier version has fewer."""
    datasets = (iteration.metrics.get("selection") or {}).get("datasets", {})
    method = METHODS.get(iteration.metrics["method"])
    # Where generators alone are trained there are sets of critics all the same, which are not used.
    trained = datasets if method is None else method.trained_agents(len(datasets), 2)
    return {
        agent: {name: counts[name] for name in COLUMNS if counts.get(name) is not None}
        for agent, counts in datasets.items()
        if agent in trained
    }


def warnings(run: Run) -> Iterator[str]:
    """A line for each value that says that the run learns noise, and one where the alarm is raised."""
    stages = {name: found for iteration in run.evaluated for name, found in health(iteration).items()}
    yield from (f"{run.name}: {line}" for line in (*health_warnings(stages), alarm_line(run.readings)) if line)


def health(iteration: Iteration) -> dict[str, dict[str, Any]]:
    """What an iteration's debates came to: on training problems, where there are any, and in the evaluation."""
    name, metrics = f"iteration {iteration.number}", iteration.metrics
    trained = {name: selected(metrics["selection"], learned(iteration))} if metrics.get("selection") else {}
    return trained | {f"{name}, evaluation": evaluated(metrics)}


def health_table(group: Group) -> Table:
    """What debates came to, iteration by iteration, as a mean over runs."""
    rows = []
    iterations = [[health(iteration) for iteration in group.at(t)] for t in group.complete]
    known = {name for each in iterations for one in each for found in one.values() for name in found}
    values = {name: value for name, value in VALUES.items() if name in known or name != "undecided"}  # of a judge
    for each in iterations:
        for stage in (stage for stage, found in each[0].items() if VALUES.keys() & found.keys()):
            cells = [[one[stage][name] for one in each if name in one.get(stage, {})] for name in values]
            means = (written(name, statistics.fmean(some)) if some else NONE for name, some in zip(values, cells))
            rows.append((stage.removeprefix("iteration "), *means))
    note = "Of training debates and of evaluation: shares of texts, last responses and votes. –: not known."
    return Table(f"{group.label}: health", ("iteration", *(one.text for one in values.values())), tuple(rows), note)


def learned_table(group: Group) -> Table:
    """What every agent learned from, iteration by iteration, as a mean over runs."""
    rows = []
    for t in group.complete:
        each = [learned(iteration) for iteration in group.at(t)]
        for agent in sorted(set().union(*each), key=lambda name: (name.partition("-")[0] != "generator", name)):
            counts = [one[agent] for one in each if agent in one]
            cells = (_cell(name, [one[name] for one in counts if name in one]) for name in COLUMNS)
            rows.append((str(t), agent, *cells))
    note = _NOTE + (f" Mean over {len(group.runs)} runs." if len(group.runs) > 1 else "")
    header = ("iteration", "agent", *COLUMNS.values())
    return Table(f"{group.label}: what agents learned from", header, tuple(rows), note)


def _cell(name: str, values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = statistics.fmean(values)
    return f"{mean:.2f}" if name == "realised_w" else f"{mean:,.0f}" if len(values) == 1 else f"{mean:,.1f}"
