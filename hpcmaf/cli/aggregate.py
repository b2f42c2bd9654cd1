"""``hpcmaf aggregate``: tables and a plot from run directories."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("aggregate")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the report.")
def command(runs: tuple[str, ...], out: Path) -> None:
    """Tables and a plot of accuracy over iterations, from one or more runs.

    RUN is a run directory, finished or not, or a copy of one; or the name of
    a run under runs/. Writes report.md, report.csv, report.json, accuracy.png
    and accuracy.svg. Runs that differ only in their seed are shown together.
    """
    from rich.console import Console

    from hpcmaf.report import aggregate
    from hpcmaf.rundir import RunDir

    paths = [path if (path := Path(run)).is_dir() else RunDir.locate(run).root for run in runs]
    report = aggregate(paths, out)
    report.print(Console())
    click.echo(f"report: {out / 'report.md'}", err=True)
