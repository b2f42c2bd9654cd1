"""Put a report together and write it: markdown, CSV, JSON and a plot."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.errors import DataError
from hpcmaf.publish import write_json, write_text
from hpcmaf.report.groups import Group, common_title, group_runs
from hpcmaf.report.records import MEASURES, Iteration, Run, read_run
from hpcmaf.report.sections import (
    accuracy_table,
    comparison_table,
    comparisons,
    cost_table,
    group_table,
    overview_table,
)
from hpcmaf.report.tables import Table, markdown_table, render_table, rich_table

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "hpcmaf-report/1"
COLUMNS = (
    *("run", "recipe", "method", "task", "model", "agents", "rounds", "seed", "iteration", "measure"),
    *("problems", "correct", "accuracy", "se", "mean_critic", "consensus", "unparsable", "tied", "pseudo_labels"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """What several runs show.

    Attributes
    ----------
    runs, groups
        All runs by name, and put together by recipe.
    """

    runs: tuple[Run, ...]
    groups: tuple[Group, ...]

    @property
    def title(self) -> str:
        """What all runs have in common."""
        return common_title(self.groups)

    @property
    def missing(self) -> list[str]:
        """What the runs lack, one line each."""
        return [f"{run.name}: {line}" for run in self.runs for line in run.missing]

    def tables(self) -> list[Table]:
        """The tables for a terminal: one run in full, several side by side."""
        if len(self.runs) == 1:
            return _run_tables(self.runs[0])
        repeated = [group for group in self.groups if len(group.runs) > 1]
        # Beyond a screenful the overview says more; report.md has them all.
        return [overview_table(self.groups), *map(group_table, repeated if len(repeated) <= 4 else [])]

    @property
    def text(self) -> str:
        """The report as plain text."""
        missing = ["Missing", *(f"  {line}" for line in self.missing)] if self.missing else []
        return "\n\n".join(
            ["\n".join(part) for part in ([self.title], *([render_table(t)] for t in self.tables()), missing) if part]
        )

    def print(self, console: Console) -> None:
        """Write to a console: with frames on a terminal, as ``text`` into a pipe or file."""
        if not console.is_terminal:
            console.file.write(self.text + "\n")
            return
        from rich.text import Text

        console.print(Text(self.title, style="bold"))
        for table in self.tables():
            console.print(rich_table(table))
        for line in self.missing:
            console.print(Text(f"missing: {line}", style="yellow"))


def aggregate(runs: Sequence[Path], out: Path) -> Report:
    """Read runs and write ``report.md``, ``.csv``, ``.json``, ``accuracy.png`` and ``.svg``.

    The same runs give the same bytes of text, in whatever order they are
    named. Each file appears whole or not at all.

    Parameters
    ----------
    runs
        Run directories, finished or not, or copies of them.
    out
        Folder to write into; made if needed.

    Raises
    ------
    DataError
        No run, a path that is no run directory, or ``out`` is a file.
    """
    from hpcmaf.report.plots import save_accuracy

    if not runs:
        raise DataError("no run to aggregate; name at least one run directory")
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out}: a file is in the way; name a folder")
    unique = {path.resolve(): path for path in runs}
    read = [read_run(path) for path in unique.values()]
    _name_apart(read)
    read.sort(key=lambda run: run.name)
    report = Report(tuple(read), tuple(group_runs(read)))
    write_text(out / "report.md", markdown(report))
    write_text(out / "report.csv", _csv(report))
    write_json(out / "report.json", to_json(report))
    save_accuracy(report.groups, out / "accuracy")
    return report


def _name_apart(runs: Sequence[Run]) -> None:
    """Runs of one name are told apart by their parents' folders, as many as it takes."""
    depth = 1
    while len({run.name for run in runs}) < len(runs):
        depth += 1
        counts = Counter(run.name for run in runs)
        for run in runs:
            if counts[run.name] > 1:
                run.name = "/".join(run.root.resolve().parts[-depth:])


def _run_tables(run: Run) -> list[Table]:
    found = (accuracy_table(run), comparison_table(run), cost_table(run))
    return [table for table in found if table is not None]


def markdown(report: Report) -> str:
    """The whole report as markdown."""
    parts = [f"# {report.title or 'Runs'}", "![Accuracy over iterations](accuracy.png)"]
    if report.missing:
        parts += ["## Missing", "\n".join(f"- {line}" for line in report.missing)]
    if len(report.runs) > 1:
        parts += ["## Overview", markdown_table(overview_table(report.groups))]
    for group in report.groups:
        if len(report.groups) > 1:
            parts.append(f"## {group.label}")
        if len(group.runs) > 1:
            parts.append(markdown_table(group_table(group)))
        for run in group.runs:
            for table in _run_tables(run):
                parts += [f"### {table.title}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def _facts(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "recipe": run.setting("name"),
        "method": run.method,
        "task": run.task,
        "model": run.model,
        "agents": run.agents,
        "rounds": run.rounds,
        "seed": run.seed,
    }


def _csv(report: Report) -> str:
    """One line per run, iteration and inference measure; shares, not percent.

    The columns from ``mean_critic`` on belong to the iteration and are the
    same on its three lines.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in report.runs:
        for iteration in run.evaluated:
            for row in _rows(iteration):
                writer.writerow(_facts(run) | row)
    return text.getvalue()


def _rows(iteration: Iteration) -> Iterator[dict[str, Any]]:
    metrics = iteration.metrics or {}
    for measure in MEASURES:
        accuracy = metrics["accuracy"][measure]
        yield {
            "iteration": iteration.number,
            "measure": measure,
            "problems": metrics["problems"],
            "correct": metrics["scores"][measure].count("1"),
            "accuracy": accuracy["value"],
            "se": accuracy["se"],
            "mean_critic": iteration.mean_critic["value"] if iteration.mean_critic else None,
            "consensus": metrics["consensus"],
            "unparsable": metrics["unparsable"],
            "tied": metrics["tied"],
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
            iterations.append({"iteration": iteration.number, "metrics": kept, "cost": iteration.cost})
        tests = list(comparisons(run))
        runs.append(
            _facts(run) | {"planned": run.planned, "iterations": iterations, "tests": tests, "missing": run.missing}
        )
    groups = []
    for group in report.groups:
        points = [
            {"iteration": t, "measure": measure} | asdict(point)
            for t in group.iterations
            for measure in MEASURES
            if (point := group.point(t, measure))
        ]
        groups.append({"label": group.label, "runs": [run.name for run in group.runs], "points": points})
    return {"schema": SCHEMA, "title": report.title, "runs": runs, "groups": groups}
