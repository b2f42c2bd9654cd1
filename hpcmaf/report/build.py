"""Put a report together and write it: markdown, CSV, JSON, LaTeX, plots and a page."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.errors import DataError
from hpcmaf.files.publish import write_json, write_text
from hpcmaf.report.compare import against, find_baseline
from hpcmaf.report.debates import choose
from hpcmaf.report.groups import Group, group_runs
from hpcmaf.report.learned import learned_csv
from hpcmaf.report.records import Run, read_run
from hpcmaf.report.report import Report
from hpcmaf.report.sections import group_table, run_tables
from hpcmaf.report.table import Table
from hpcmaf.report.values import to_csv, to_json

if TYPE_CHECKING:
    from hpcmaf.report.plots import Plot

# Debates on the page, and runs beyond which it shows recipes only; report.md has them all.
DEBATES, MOST_RUNS = 60, 20


def aggregate(
    runs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None = None,
    reference: bool = False,
    debates: int = DEBATES,
) -> Report:
    """Read runs and write ``report.md``, ``.csv``, ``.json``, ``.tex``, ``.html``, ``learned.csv`` and the plots.

    The same runs give the same bytes of text, in whatever order they are
    named. Each file appears whole or not at all.

    Parameters
    ----------
    runs
        Run directories, finished or not, or copies of them.
    out
        Folder to write into; made if needed.
    baseline
        Run, recipe or method that all are tested against, see
        :func:`hpcmaf.report.compare.find_baseline`.
    reference
        Show the paper's values beside one's own.
    debates
        Most debates to put on the page.

    Raises
    ------
    DataError
        No run, a path that is no run directory, or ``out`` is a file.
    UsageError
        No such baseline.
    """
    from hpcmaf.report.plots import save_plots

    if not runs:
        raise DataError("no run to aggregate; name at least one run directory")
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out}: a file is in the way; name a folder")
    unique = {path.resolve(): path for path in runs}
    read = [read_run(path) for path in unique.values()]
    _name_apart(read)
    read.sort(key=lambda run: run.name)
    groups = group_runs(read)
    chosen = None if baseline is None else find_baseline(baseline, groups)
    tested = () if chosen is None else tuple(against(chosen, groups))
    report = Report(tuple(read), tuple(groups), chosen.name if chosen else None, tested, reference)
    # First: what is wrong with the stores is part of what is missing.
    shown, notes = choose(report.groups, debates)
    plots = save_plots(report.groups, out)
    write_text(out / "report.md", markdown(report, plots))
    write_text(out / "report.csv", to_csv(report))
    write_text(out / "learned.csv", learned_csv(report.runs))
    write_json(out / "report.json", to_json(report))
    write_text(out / "report.tex", "\n".join(table.latex() for table in report.task_tables()))
    write_text(out / "report.html", _page(report, plots, out, shown, notes))
    return report


def _name_apart(runs: Sequence[Run]) -> None:
    """Runs of one name are distinguished by their parents' folders, as many as it takes."""
    depth = 1
    while len({run.name for run in runs}) < len(runs):
        depth += 1
        counts = Counter(run.name for run in runs)
        for run in runs:
            if counts[run.name] > 1:
                run.name = "/".join(run.root.resolve().parts[-depth:])


def markdown(report: Report, plots: Sequence[Plot] = ()) -> str:
    """The whole report as markdown."""
    parts = [f"# {report.title or 'Runs'}"]
    if report.findings:
        found = (f"- **{verdict}**: {text}" for verdict, text in report.findings)
        parts += ["## What holds, and what does not", "\n".join(found)]
    parts += [f"![{plot.about}]({plot.stem}.png)" for plot in plots]
    for name, lines in (("Missing", report.missing), ("Warnings", report.warnings)):
        parts += [f"## {name}", "\n".join(f"- {line}" for line in lines)] if lines else []
    for table in report.method_tables():
        parts += [f"## {table.title}", table.markdown()]
    for group in report.groups:
        if len(report.groups) > 1:
            parts.append(f"## {group.label}")
        for table in _tables(report, group):
            parts += [f"### {table.title}", table.markdown()]
    return "\n\n".join(parts) + "\n"


def _tables(report: Report, group: Group, most_runs: float = math.inf) -> Iterator[Table]:
    """Everything about one recipe; its single runs only where the report has no more than ``most_runs``."""
    if len(group.runs) > 1:
        yield group_table(group)
    for run in group.runs if len(report.runs) <= most_runs else ():
        yield from run_tables(run)
    yield from report.behaviour[group.label]


def _page(
    report: Report, plots: Sequence[Plot], out: Path, debates: Sequence[dict[str, Any]], notes: Sequence[str]
) -> str:
    """The report as one HTML file that needs nothing else, not even a network, with the plots that lie in ``out``.

    Text of models and names of runs are data: they are escaped, and debates
    travel as JSON that no script tag can be closed from.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("hpcmaf.report", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html").render(
        title=report.title or "Runs",
        findings=report.findings,
        lists=[("Missing", report.missing), ("Warnings", report.warnings)],
        # As images of their own: the ids of several SVGs in one page would clash.
        plots=[(plot, base64.b64encode((out / f"{plot.stem}.svg").read_bytes()).decode()) for plot in plots],
        tables=report.method_tables(),
        groups=[(group.label, list(_tables(report, group, MOST_RUNS))) for group in report.groups],
        notes=notes,
        debates=debates,
    )
