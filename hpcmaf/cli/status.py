"""``hpcmaf status``: how a run is."""

from __future__ import annotations

import json
import sys
import time

import click
from rich.console import Console
from rich.live import Live

from hpcmaf.cli.options import run_argument
from hpcmaf.launch.status import Status
from hpcmaf.run.directory import RunDir

_PIPE_WIDTH = 160
WATCH_SECONDS = 10.0


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--watch", is_flag=True, help="Look every ten seconds, until the run is done or nothing moves it on.")
def command(run: RunDir, as_json: bool, watch: bool) -> None:
    """Show how far a run is, what failed and why, and what to do next.

    RUN is a run directory, or a name under runs/. Nothing is written to it.
    The exit code is 0 while the run is well, 15 when it was stopped or has
    stalled, 13 when Slurm does not answer.
    """
    status, terminal = Status(run), sys.stdout.isatty()
    console = Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal, quiet=as_json)
    if watch:
        # Of a pipe's reader the last view alone is of use, which is what is written there.
        with Live(status.view(), console=console, auto_refresh=False, vertical_overflow="visible") as live:
            before = ""
            # Between two stages a chain may look stalled for a moment.
            while status.state not in {"done", "stopped"} and not before == status.state == "stalled":
                time.sleep(WATCH_SECONDS)
                before, status = status.state, Status(run)
                live.update(status.view(), refresh=True)
    if as_json:
        click.echo(json.dumps(status.to_json(), indent=1))
    elif not watch:
        console.print(status.view())
    raise click.exceptions.Exit(status.exit_code)
