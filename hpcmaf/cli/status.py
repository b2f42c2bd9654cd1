"""``hpcmaf status``: how a run is."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console

from hpcmaf.cli.options import run_argument
from hpcmaf.launch.status import Status
from hpcmaf.run.directory import RunDir

_PIPE_WIDTH = 160


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(run: RunDir, as_json: bool) -> None:
    """Show how far a run is, what failed and why, and what to do next.

    RUN is a run directory, or a name under runs/. Nothing is written to it.
    The exit code is 0 while the run is well, 15 when it was stopped or has
    stalled, 13 when Slurm does not answer.
    """
    status, terminal = Status(run), sys.stdout.isatty()
    if as_json:
        click.echo(json.dumps(status.to_json(), indent=1))
    else:
        console = Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal)
        console.print(status.view())
    raise click.exceptions.Exit(status.exit_code)
