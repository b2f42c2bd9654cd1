"""``hpcmaf aggregate``: tables, plots and a page from run directories."""

from __future__ import annotations

from pathlib import Path

import click

from hpcmaf.report.report import aggregate
from hpcmaf.run.directory import RunDir


@click.command("aggregate")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the report.")
@click.option(
    "--baseline",
    metavar="RUN|METHOD",
    help="Test every recipe against this one on the same problems; base, majority and debate are the untrained "
    "base's, from whichever run measured them.",
)
@click.option("--reference", is_flag=True, help="Show the paper's figures beside runs of its settings.")
def command(runs: tuple[str, ...], out: Path, baseline: str | None, reference: bool) -> None:
    """Tables, plots and a page of them, from one or more runs.

    RUN is a run directory, finished or not, or a copy of one; or the name of
    a run under runs/. Writes report.html, which needs no other file and no
    network, report.md, .csv, .json and .tex, and the plots as PNG and SVG.
    Runs that differ only in their seed are shown together. Runs that were
    evaluated on the same problems are compared, whatever they were trained on.
    """
    paths = [path if (path := Path(run)).is_dir() else RunDir.locate(run).root for run in runs]
    report = aggregate(paths, out, baseline=baseline, reference=reference)
    report.print()
    click.echo(f"report: {out / 'report.html'}", err=True)
