"""The tables of a recipe: accuracy, cost, what debates do and what agents learn from them; and warnings."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from hpcmaf.debate.health import VALUES, evaluated, health_warnings, selected, written
from hpcmaf.debate.methods import METHODS
from hpcmaf.evaluation.accuracy import MEASURES
from hpcmaf.evaluation.alarm import alarm_line
from hpcmaf.report.groups import Group, Point
from hpcmaf.report.methods import cost_table
from hpcmaf.report.records import Iteration, Run
from hpcmaf.report.table import NONE, Table, estimate, iteration_name, percent

DIVERSITY = {
    "disagreement": "1 − consensus",
    "embedding": "embedding",
    "nll": "NLL under others",
    "kl_agents": "KL between agents",
    "kl_base": "KL to the base",
}
LEARNED = {
    "kept": "kept",
    "kept_positives": "D+",
    "kept_negatives": "D−",
    "realised_w": "w",
    "dropped_too_long": "too long",
    "cut_off": "cut off",
    "samples": "trained on",
}
_LEARNED_NOTE = (
    "Samples of each agent: kept by selection; of these first answers or trajectories that were right all along (D+) "
    "and such that began wrong (D−); their share w; dropped because they were longer than training.max_length; "
    "responses cut off at the token limit; trained on. –: a run of an earlier version does not say."
)


def recipe_tables(group: Group) -> list[Table]:
    """All that the runs of a recipe have the metrics for."""
    makers = (accuracy_table, health_table, learned_table, diversity_table, cost_table)
    return [table for make in makers if (table := make(group)).rows]


def accuracy_table(group: Group) -> Table:
    """Accuracy of each way of answering, iteration by iteration."""
    columns = {**MEASURES, "pseudo_labels": "pseudo-labels"}
    rows = [(iteration_name(t), *(_over_runs(group.point(t, name)) for name in columns)) for t in group.complete]
    several = len(group.runs) > 1
    title = f"{group.label}: accuracy over {len(group.runs)} runs" if several else f"{group.any.name}: accuracy"
    note = "Percent: mean over runs ± standard error over {} problems (of one run) [lowest, highest run]."
    note = note if several else "Percent ± standard error over {} problems."
    note = f"{note.format(group.problems)} Pseudo-labels: the votes of the training debates."
    return Table(title, ("iteration", *columns.values()), tuple(rows), note)


def _over_runs(point: Point | None) -> str:
    if point is None or point["runs"] == 1:
        return estimate(point)
    return f"{estimate(point)} [{percent(point['low'])}, {percent(point['high'])}]"


def diversity_table(group: Group) -> Table:
    """All measures of diversity that are there."""
    there = [name for name in DIVERSITY if any(group.point(t, name) for t in group.complete)]
    rows = []
    for t in group.complete if there else ():
        points = (group.point(t, name) for name in there)
        rows.append((iteration_name(t), *(f"{p['value']:.4f} ± {p['se']:.4f}" if p else NONE for p in points)))
    note = "Mean over problems ± standard error, final round."
    if len(there) > 1:
        note += (
            " Embedding: 1 - cosine of two agents' responses. NLL (nats per token) of a critic's response under "
            "another critic; KL (nats per token) from the agent that wrote a response, estimated on its tokens."
        )
    if len(set(group.any.model.split(" + "))) > 1:
        note += " Agents of different vocabularies have no likelihoods or KL of each other's responses."
    return Table(f"{group.label}: diversity", ("iteration", *(DIVERSITY[name] for name in there)), tuple(rows), note)


def learned(iteration: Iteration) -> dict[str, dict[str, Any]]:
    """Of each agent finetuned the columns' values; a run of an earlier version has fewer."""
    datasets = (iteration.metrics.get("selection") or {}).get("datasets", {})
    method = METHODS.get(iteration.metrics["method"])
    # Where generators alone are trained there are sets of critics all the same, which are not used.
    trained = datasets if method is None else method.trained_agents(len(datasets), 2)
    return {
        agent: {name: counts[name] for name in LEARNED if counts.get(name) is not None}
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
            cells = (_cell(name, [one[name] for one in counts if name in one]) for name in LEARNED)
            rows.append((str(t), agent, *cells))
    note = _LEARNED_NOTE + (f" Mean over {len(group.runs)} runs." if len(group.runs) > 1 else "")
    header = ("iteration", "agent", *LEARNED.values())
    return Table(f"{group.label}: what agents learned from", header, tuple(rows), note)


def _cell(name: str, values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = statistics.fmean(values)
    return f"{mean:.2f}" if name == "realised_w" else f"{mean:,.0f}" if len(values) == 1 else f"{mean:,.1f}"
