"""A report for programs: CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.methods import cost_rows
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
    return {"run": run.name, "recipe": run.setting("name")} | {name: getattr(run, name) for name in _SETTING}


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
            for row in _rows(iteration):
                writer.writerow(_setting(run) | row)
    return text.getvalue()


def _rows(iteration: Iteration) -> Iterator[dict[str, Any]]:
    metrics = iteration.metrics or {}
    for measure in [name for name in MEASURES if name in metrics["accuracy"]]:
        accuracy = metrics["accuracy"][measure]
        yield {
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
    runs = []
    for run in report.runs:
        iterations = []
        for iteration in run.iterations:
            metrics = iteration.metrics
            kept = {k: v for k, v in metrics.items() if k not in {"schema", "scores"}} if metrics else None
            entry = {"iteration": iteration.number, "metrics": kept, "cost": iteration.cost}
            iterations.append(entry | ({"diversity": iteration.diversity} if iteration.diversity else {}))
        tests = [
            {"iteration": one.iteration, "measure": one.measure}
            | {key: run.at(0).accuracy(one.measure)[key] for key in ("agents", "rounds")}
            | one.to_json()
            for one in comparisons(run)
        ]
        runs.append(
            _setting(run) | {"planned": run.planned, "iterations": iterations, "tests": tests, "missing": run.missing}
        )
    groups = []
    for group in report.groups:
        points = [
            {"iteration": t, "measure": measure} | asdict(point)
            for t in group.iterations
            for measure in MEASURES
            if (point := group.point(t, measure))
        ]
        groups.append(
            {
                "label": group.label,
                "trained_on": group.runs[0].trained_on,
                "evaluated_on": group.runs[0].evaluated_on,
                "runs": [run.name for run in group.runs],
                "points": points,
                "cost": cost_rows(group),
            }
        )
    tests = [
        {"label": one.group.label, "iteration": one.iteration, "baseline_iteration": one.against} | one.to_json()
        for one in report.tested
    ]
    value = {"schema": SCHEMA, "title": report.title, "runs": runs, "groups": groups, "warnings": report.warnings}
    if report.claims:
        value["claims"] = [
            {"evaluated_on": one.place[0], "model": one.place[1], "claim": one.text}
            | one.to_json()
            | {"verdict": one.verdict}
            for one in report.claims
        ]
    return value | ({"baseline": report.baseline, "tests": tests} if report.baseline else {})
