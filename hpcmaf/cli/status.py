"""``hpcmaf status``: how a run is."""

from __future__ import annotations

import json
import sys

import click

_PIPE_WIDTH = 160


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(run_name: str, as_json: bool) -> None:
    """Show how far a run is, what failed and why, and what to do next.

    RUN is a run directory, or a name under runs/. Nothing is written to it.
    The exit code is 0 while the run is well, 15 when it was stopped or has
    stalled, 13 when Slurm does not answer.
    """
    from rich.console import Console

    from hpcmaf.launch.status import Status
    from hpcmaf.run.directory import RunDir

    status, terminal = Status(RunDir.locate(run_name)), sys.stdout.isatty()
    if as_json:
        click.echo(json.dumps(status.to_json(), indent=1))
    else:
        console = Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal)
        console.print(status.view())
    raise click.exceptions.Exit(status.exit_code)
