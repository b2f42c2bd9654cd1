"""What agents learned from: samples kept, their kinds, what was left out, and where that is too little."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from hpcmaf.debate.methods import METHODS
from hpcmaf.report.groups import Group
from hpcmaf.report.records import Iteration, Run
from hpcmaf.report.table import NONE, Table

# Fewer samples teach an agent little.
FEW = 10
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
    """Of each agent finetuned the columns' values; ``None`` where a run of an earlier version does not say."""
    metrics = iteration.metrics or {}
    datasets, method = (metrics.get("selection") or {}).get("datasets", {}), METHODS.get(metrics.get("method", ""))
    # Where generators alone are trained there are sets of critics all the same, which are not used.
    trained = None if method is None else method.trained_agents(len(datasets), 2)
    return {
        agent: {name: counts.get(name) for name in COLUMNS}
        for agent, counts in datasets.items()
        if trained is None or agent in trained
    }


def scarce(run: Run) -> Iterator[str]:
    """A line for each iteration in which agents were trained on few samples, or on none."""
    for iteration in run.evaluated:
        few = {}
        for agent, counts in learned(iteration).items():
            samples = counts["kept"] if counts["samples"] is None else counts["samples"]
            if samples < FEW:
                few[agent] = samples
        if few:
            counted = ", ".join(f"{agent}: {samples or 'none'}" for agent, samples in few.items())
            yield (
                f"{run.name}: iteration {iteration.number}: fewer than {FEW} training samples ({counted}); raise "
                "task.train, or see which were cut off, too long or not mixed in"
            )


def learned_table(group: Group) -> Table | None:
    """What every agent learned from, iteration by iteration, as a mean over runs."""
    rows = []
    for t in group.complete:
        each = [learned(iteration) for iteration in group.at(t)]
        for agent in sorted(set().union(*each), key=lambda name: (name.partition("-")[0] != "generator", name)):
            counts = [one[agent] for one in each if agent in one]
            rows.append((str(t), agent, *(_cell(name, [one[name] for one in counts]) for name in COLUMNS)))
    if not rows:
        return None
    runs = max(len(group.at(t)) for t in group.complete)
    note = _NOTE + (f" Mean over {runs} runs." if runs > 1 else "")
    header = ("iteration", "agent", *COLUMNS.values())
    return Table(f"{group.label}: what agents learned from", header, tuple(rows), note)


def _cell(name: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    mean = statistics.fmean(known)
    return f"{mean:.2f}" if name == "realised_w" else f"{mean:,.0f}" if len(known) == 1 else f"{mean:,.1f}"


def learned_csv(runs: Sequence[Run]) -> str:
    """One line per run, iteration and agent that was finetuned."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "iteration", "agent", *COLUMNS])
    for run in runs:
        for iteration in run.evaluated:
            for agent, counts in learned(iteration).items():
                writer.writerow([run.name, iteration.number, agent, *counts.values()])
    return text.getvalue()
