"""``hpcmaf status``: how a run is."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext

import click

WATCH_SECONDS = 10.0
_PIPE_WIDTH = 160


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--watch", is_flag=True, help="Look again every ten seconds, until the run is done or stopped.")
def command(run_name: str, as_json: bool, watch: bool) -> None:
    """Show how far a run is, what failed and why, and what to do next.

    RUN is a run directory, or a name under runs/. Nothing is written to it.
    The exit code is 0 while the run is well, 15 when it was stopped or has
    stalled, 13 when Slurm does not answer.
    """
    from rich.console import Console
    from rich.live import Live

    from hpcmaf.launch.status import look
    from hpcmaf.run.directory import RunDir

    run, terminal = RunDir.locate(run_name), sys.stdout.isatty()
    console = Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal)
    status = look(run)
    live = Live(status.view(), console=console, auto_refresh=False, vertical_overflow="visible")
    with live if watch and terminal and not as_json else nullcontext():
        stalls = 0
        while watch:
            # Between two stages a chain may look stalled for a moment.
            stalls = stalls + 1 if status.survey.state == "stalled" else 0
            if status.over and stalls != 1:
                break
            time.sleep(WATCH_SECONDS)
            status = look(run)
            if live.is_started:
                live.update(status.view(), refresh=True)
    if as_json:
        click.echo(json.dumps(status.to_json(), indent=1))
    elif not (watch and terminal):
        console.print(status.view())
    raise click.exceptions.Exit(status.exit_code)
