"""The report as one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.files.publish import write_text
from hpcmaf.report.report import Report
from hpcmaf.report.sections import group_table, run_tables

if TYPE_CHECKING:
    from hpcmaf.report.plots import Plot

# More runs than this are shown by recipe only; report.md has them all.
MOST_RUNS = 20


def write_page(
    report: Report, plots: Sequence[Plot], out: Path, debates: Sequence[dict[str, Any]], notes: Sequence[str]
) -> None:
    """Write ``report.html`` into ``out``, with the plots that lie there already.

    Text of models and names of runs are data: they are escaped, and debates
    travel as JSON that no script tag can be closed from.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.get_template("page.html").render(
        title=report.title or "Runs",
        findings=report.findings,
        lists=[("Missing", report.missing), ("Warnings", report.warnings)],
        # As images of their own: the ids of several SVGs in one page would clash.
        plots=[(plot, base64.b64encode((out / f"{plot.stem}.svg").read_bytes()).decode()) for plot in plots],
        tables=report.method_tables(),
        groups=[
            (
                group.label,
                [
                    *([group_table(group)] if len(group.runs) > 1 else []),
                    *(table for run in group.runs if len(report.runs) <= MOST_RUNS for table in run_tables(run)),
                    *report.behaviour[group.label],
                ],
            )
            for group in report.groups
        ],
        notes=notes,
        debates=debates,
    )
    write_text(out / "report.html", page)
