"""What several runs show, put together once for every form it is written in: tables, files, plots and a page."""

from __future__ import annotations

import base64
import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.errors import DataError
from hpcmaf.files.publish import write_json, write_text
from hpcmaf.report.claims import claims
from hpcmaf.report.compare import against, find_baseline, gains
from hpcmaf.report.groups import common_title, group_runs
from hpcmaf.report.methods import Row, cost_table, method_cost_table, method_tables, total
from hpcmaf.report.recipes import accuracy_table, recipe_tables, warnings
from hpcmaf.report.records import Run, read_run
from hpcmaf.report.reference import published
from hpcmaf.report.table import Table

if TYPE_CHECKING:
    from hpcmaf.report.plots import Plot

SCHEMA = "hpcmaf-report/3"
FOUND = "What holds, and what does not"
TESTED = (
    "Points on the same problems, runs paired by seed, with the 95 % interval of a bootstrap over problems; exact "
    "tests (McNemar's; over seeds, sign flips by problem), with p adjusted for the tests made together (Holm). Open: "
    "not decided at 5 percent. Tests speak about these trained models, not about training once more."
)


def aggregate(runs: Sequence[Path], out: Path, *, baseline: str | None = None, reference: bool = False) -> Report:
    """Read runs and write ``report.md``, ``.csv``, ``.json``, ``.tex``, ``.html`` and the plots.

    The same runs give the same bytes of text, in whatever order they are named. Each file appears whole or not at all.

    Parameters
    ----------
    runs
        Run directories, finished or not, or copies of them; at least one.
    out
        Folder to write into; made if needed.
    baseline
        Run, recipe or method that all are tested against, see :func:`hpcmaf.report.compare.find_baseline`.
    reference
        Show the paper's values beside one's own.

    Raises
    ------
    DataError
        A path is no run directory, or ``out`` is a file.
    UsageError
        No such baseline.
    """
    from hpcmaf.report.plots import save_plots

    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out}: a file is in the way; name a folder")
    read = [read_run(path) for path in {path.resolve(): path for path in runs}.values()]
    _give_distinct_names(read)
    report = Report(read, baseline, reference)
    plots = save_plots(report.groups, out)
    write_text(out / "report.md", report.markdown(plots))
    write_text(out / "report.csv", to_csv(report.runs))
    write_json(out / "report.json", report.json())
    write_text(out / "report.tex", "\n".join(table.latex() for table in report.methods))
    write_text(out / "report.html", report.page(plots, out))
    return report


def _give_distinct_names(runs: Sequence[Run]) -> None:
    """Runs of one name are distinguished by the folders that they do not share."""
    for name in [one for one, count in Counter(run.name for run in runs).items() if count > 1]:
        twins = [run for run in runs if run.name == name]
        shared = os.path.commonpath([run.root.resolve() for run in twins])
        for run in twins:
            run.name = run.root.resolve().relative_to(shared).as_posix()


class Report:
    """What several runs show; the parameters are those of :func:`aggregate`.

    Attributes
    ----------
    runs, groups
        All runs by name, and put together by recipe.
    title
        What all runs have in common.
    claims, tested
        How the paper's claims come out here, where their methods are; how recipes compare with the baseline or, without
        one and without claims, with the untouched base.
    rows, methods
        The comparison of methods, a row per recipe, and as tables.
    findings
        What holds, what does not and what stays open here: a verdict and a sentence each, what is decided first.
    missing, warnings
        What the runs lack, and what is there and cannot mean much, one line each.
    """

    def __init__(self, runs: Sequence[Run], baseline: str | None = None, reference: bool = False) -> None:
        self.runs = sorted(runs, key=lambda run: run.name)
        self.groups = group_runs(runs)
        self.title = common_title(self.groups) or "Runs"
        self.claims = claims(self.groups)
        base = find_baseline(baseline, self.groups) if baseline else None
        self.tested = against(base, self.groups) if base else [] if self.claims else gains(self.groups)
        tests = {one.group: one for one in self.tested} if base else {}
        self.rows = [
            Row(group, point, tests.get(group), published(group.any, group.numbers[-1]) if reference else None)
            for group in self.groups
            if (point := group.point())
        ]
        self.methods = method_tables(self.rows, base.name if base else None)
        self._compared = bool(base or reference or len(self.groups) > 1)
        self.findings = self._findings()
        self.missing = [f"{run.name}: {line}" for run in self.runs for line in run.missing]
        if reference and all(row.paper is None for row in self.rows):
            fault = "the paper has no values for the model, task, method, N, M and iteration of any of these runs"
            self.missing.append(fault)
        self.warnings = [line for run in self.runs for line in warnings(run)]

    def _findings(self) -> list[tuple[str, str]]:
        several = len({(group.place, group.any.size) for group in self.groups}) > 1
        about = "{evaluated_on} · {model} · N = {agents}, M = {rounds}: " if several else ""
        found = [(one.verdict, about.format_map(one.facts) + one.sentence) for one in self.claims]
        found += [(one.verdict, one.sentence) for one in self.tested]
        return sorted(found, key=lambda one: one[0] == "open")

    @property
    def lists(self) -> dict[str, list[str]]:
        """Findings, what is missing, and warnings, by the heading that they stand under."""
        found = [f"{verdict}: {sentence}" for verdict, sentence in self.findings]
        lists = {FOUND: found, "Missing": self.missing, "Warnings": self.warnings}
        return {name: lines for name, lines in lists.items() if lines}

    def tables(self) -> list[Table]:
        """The tables for a terminal: a recipe's accuracy and cost, or recipes side by side."""
        own = (accuracy_table(self.groups[0]), cost_table(self.groups[0])) if len(self.groups) == 1 else ()
        return [*(table for table in own if table.rows), *self.method_tables()]

    def method_tables(self) -> list[Table]:
        """Methods side by side, where there is something to compare, and what they cost."""
        tables = (*self.methods, method_cost_table(self.groups)) if self._compared else ()
        return [table for table in tables if table.rows]

    def json(self) -> dict[str, Any]:
        """The report as JSON values; per-problem scores stay in the runs."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "warnings": self.warnings,
            "runs": [*map(run_json, self.runs)],
            "groups": [
                {"label": group.label, "runs": [run.name for run in group.runs], "compared": group.numbers}
                for group in self.groups
            ],
            "claims": [one.to_json() for one in self.claims],
            "tests": [one.to_json() for one in self.tested],
        }

    @property
    def text(self) -> str:
        """The report as plain text."""
        lists = ("\n".join([name, *(f"  {line}" for line in lines)]) for name, lines in self.lists.items())
        return "\n\n".join([self.title, *(table.plain() for table in self.tables()), *lists])

    def print(self) -> None:
        """Write to standard output: with frames on a terminal, as ``text`` into a pipe or file."""
        from rich.console import Console
        from rich.text import Text

        console = Console()
        if not console.is_terminal:
            console.file.write(self.text + "\n")
            return
        lists = [
            Text("\n".join([name, *lines]), "" if name == FOUND else "yellow") for name, lines in self.lists.items()
        ]
        console.print(Text(self.title, "bold"), *(table.rich() for table in self.tables()), *lists, sep="\n")

    def markdown(self, plots: Sequence[Plot] = ()) -> str:
        """The whole report as markdown."""
        parts = [f"# {self.title}"]
        for name, lines in self.lists.items():
            parts += [f"## {name}", "\n".join(f"- {line}" for line in lines), *[TESTED] * (name == FOUND)]
        parts += [f"![{plot.about}]({plot.stem}.png)" for plot in plots]
        for table in self.method_tables():
            parts += [f"## {table.title}", table.markdown()]
        for group in self.groups:
            parts += [f"## {group.label}"] if len(self.groups) > 1 else []
            for table in recipe_tables(group):
                parts += [f"### {table.title}", table.markdown()]
        return "\n\n".join(parts) + "\n"

    def page(self, plots: Sequence[Plot], out: Path) -> str:
        """The report as one HTML file that needs nothing else, not even a network, with the plots that lie in ``out``.

        Names of runs are data: they are escaped, and no script runs.
        """
        from jinja2 import Environment, PackageLoader, StrictUndefined

        loader = PackageLoader("hpcmaf.report", ".")
        environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        return environment.get_template("page.html").render(
            title=self.title,
            findings=self.findings,
            tested=TESTED,
            lists={name: lines for name, lines in self.lists.items() if name != FOUND},
            # As images of their own: the ids of several SVGs in one page would clash.
            plots=[(plot, base64.b64encode((out / f"{plot.stem}.svg").read_bytes()).decode()) for plot in plots],
            tables=self.method_tables(),
            groups=[(group.label, recipe_tables(group)) for group in self.groups],
        )


# --- for programs ---


def _setting(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    size = {"agents": run.size[0], "rounds": run.size[1], "seed": recipe.seed}
    tasks = {name: getattr(run, name) for name in ("trained_on", "evaluated_on", "model")}
    return {"run": run.name, "recipe": recipe.name, "method": recipe.method, **tasks, **size}


def to_csv(runs: Iterable[Run]) -> str:
    """One line per run, iteration and inference measure; shares, not percent.

    The columns from ``consensus`` on belong to the iteration and are the same on all its lines.
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
