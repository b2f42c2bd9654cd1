"""A report for programs: CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.cost import spent, total
from hpcmaf.report.groups import Group
from hpcmaf.report.records import Iteration, Run
from hpcmaf.report.report import Report
from hpcmaf.report.sections import comparisons

SCHEMA = "hpcmaf-report/2"
_SETTING = ("method", "task", "trained_on", "evaluated_on", "model", "agents", "rounds", "seed")
COLUMNS = (
    *("run", "recipe", *_SETTING, "iteration", "measure", "measured_agents", "measured_rounds"),
    *("problems", "correct", "accuracy", "se", "mean_critic", "consensus", "unparsable", "tied", "pseudo_labels"),
)


def _setting(run: Run) -> dict[str, Any]:
    facts = {name: getattr(run, name) for name in _SETTING} | {"method": run.method.name}
    return {"run": run.name, "recipe": run.recipe.name} | facts


def to_csv(report: Report) -> str:
    """One line per run, iteration and inference measure; shares, not percent.

    The columns from ``mean_critic`` on belong to the iteration and are the
    same on all its lines.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in report.runs:
        for iteration in run.evaluated:
            for measure in MEASURES:
                if accuracy := iteration.accuracy(measure):
                    writer.writerow(_setting(run) | _row(iteration, measure, accuracy))
    return text.getvalue()


def _row(iteration: Iteration, measure: str, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    metrics = iteration.metrics
    return {
        "iteration": iteration.number,
        "measure": measure,
        "measured_agents": accuracy["agents"],
        "measured_rounds": accuracy["rounds"],
        "problems": metrics["problems"],
        "correct": metrics["scores"][measure].count("1"),
        "accuracy": accuracy["value"],
        "se": accuracy["se"],
        "mean_critic": iteration.mean_critic["value"] if iteration.mean_critic else None,
        **{name: metrics[name] for name in ("consensus", "unparsable", "tied")},
        "pseudo_labels": metrics["pseudo_labels"]["value"] if metrics["pseudo_labels"] else None,
    }


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values; per-problem scores stay in the runs."""
    value = {
        "schema": SCHEMA,
        "title": report.title,
        "runs": [_run(run) for run in report.runs],
        "groups": [_group(group) for group in report.groups],
        "warnings": report.warnings,
    }
    if report.claims:
        value["claims"] = [
            {"evaluated_on": one.place[0], "model": one.place[1], "claim": one.text, "verdict": one.verdict}
            | one.to_json()
            for one in report.claims
        ]
    if report.baseline:
        value["baseline"] = report.baseline
        value["tests"] = [
            {"label": one.group.label, "iteration": one.iteration, "baseline_iteration": one.against} | one.to_json()
            for one in report.tested
        ]
    return value


def _run(run: Run) -> dict[str, Any]:
    iterations = []
    for t in sorted({i.number for i in run.evaluated} | run.ledgers.keys()):
        found = run.at(t)
        metrics = {k: v for k, v in found.metrics.items() if k not in {"schema", "scores"}} if found else None
        cost = total(run.ledgers[t]) if t in run.ledgers else None
        diversity = {"diversity": found.diversity} if found and found.diversity else {}
        iterations.append({"iteration": t, "metrics": metrics, "cost": cost} | diversity)
    tests = []
    for one in comparisons(run):
        base = run.at(0).accuracy(one.measure)
        about = {"iteration": one.iteration, "measure": one.measure, "agents": base["agents"], "rounds": base["rounds"]}
        tests.append(about | one.to_json())
    planned = run.plan.stages[-1].iteration
    return _setting(run) | {"planned": planned, "iterations": iterations, "tests": tests, "missing": run.missing}


def _group(group: Group) -> dict[str, Any]:
    points = [
        {"iteration": t, "measure": measure} | point
        for t in group.iterations
        for measure in MEASURES
        if (point := group.point(t, measure))
    ]
    cost = spent(group, group.last)
    return {
        "label": group.label,
        "trained_on": group.any.trained_on,
        "evaluated_on": group.any.evaluated_on,
        "runs": [run.name for run in group.runs],
        "points": points,
        "cost": cost and {"iteration": group.last} | cost,
    }
