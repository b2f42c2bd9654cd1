"""A report for programs: CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.cost import total
from hpcmaf.report.records import Iteration, Run


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
    rows = [row for run in runs for iteration in run.evaluated for row in _rows(run, iteration)]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(run: Run, iteration: Iteration) -> Iterator[dict[str, Any]]:
    metrics = iteration.metrics
    for measure in [name for name in MEASURES if iteration.accuracy(name)]:
        accuracy = iteration.accuracy(measure)
        yield _setting(run) | {
            "iteration": iteration.number,
            "measure": measure,
            "measured_agents": accuracy["agents"],
            "measured_rounds": accuracy["rounds"],
            "problems": metrics["problems"],
            "correct": metrics["scores"][measure].count("1"),
            "accuracy": accuracy["value"],
            "se": accuracy["se"],
            **{name: metrics[name] for name in ("consensus", "unparsable", "tied")},
            "pseudo_labels": metrics["pseudo_labels"]["value"] if metrics["pseudo_labels"] else None,
        }


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
