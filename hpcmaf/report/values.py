"""A report for programs: CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from hpcmaf.report.cost import total
from hpcmaf.report.records import Run


def _setting(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    size = {"agents": run.size[0], "rounds": run.size[1], "seed": recipe.seed}
    tasks = {name: getattr(run, name) for name in ("trained_on", "evaluated_on", "model")}
    return {"run": run.name, "recipe": recipe.name, "method": recipe.method, **tasks, **size}


def to_csv(runs: Iterable[Run]) -> str:
    """One line per run, iteration and inference measure; shares, not percent.

    The columns from ``consensus`` on belong to the iteration and are the
    same on all its lines.
    """
    rows = []
    for run, iteration in ((run, iteration) for run in runs for iteration in run.evaluated):
        metrics = iteration.metrics
        for measure, accuracy in metrics["accuracy"].items():
            row = _setting(run) | {"iteration": iteration.number, "measure": measure}
            row |= {"measured_agents": accuracy["agents"], "measured_rounds": accuracy["rounds"]}
            row |= {"problems": metrics["problems"], "correct": metrics["scores"][measure].count("1")}
            row |= {"accuracy": accuracy["value"], "se": accuracy["se"]}
            row |= {name: metrics[name] for name in ("consensus", "unparsable", "tied")}
            rows.append(row | {"pseudo_labels": (metrics["pseudo_labels"] or {}).get("value")})
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def run_json(run: Run) -> dict[str, Any]:
    """A run, iteration by iteration."""
    iterations = []
    for t in sorted({i.number for i in run.evaluated} | run.ledgers.keys()):
        found = run.at(t)
        metrics = {k: v for k, v in found.metrics.items() if k not in {"schema", "scores"}} if found else None
        cost = total(run.ledgers[t]) if t in run.ledgers else None
        diversity = {"diversity": found.diversity} if found and found.diversity else {}
        iterations.append({"iteration": t, "metrics": metrics, "cost": cost} | diversity)
    planned, signals = run.plan.stages[-1].iteration, [*map(asdict, run.readings)]
    return _setting(run) | {"planned": planned, "iterations": iterations, "missing": run.missing, "signals": signals}
