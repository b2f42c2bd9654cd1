"""``hpcmaf status``: how a run is."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext

import click

_WATCH_SECONDS = 10.0
_PIPE_WIDTH = 160


class _Command(click.Command):
    """Lets ``--watch RUN`` mean what it says: RUN is no number of seconds."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Give a bare ``--watch`` its default before click takes the next word for its value."""
        bare = f"--watch={_WATCH_SECONDS}"
        after = [word.replace(".", "", 1).isdigit() for word in [*args[1:], ""]]
        args = [bare if word == "--watch" and not number else word for word, number in zip(args, after, strict=True)]
        return super().parse_args(context, args)


@click.command(cls=_Command)
@click.argument("run_name", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Write JSON; with --watch, an object per line.")
@click.option(
    "--watch",
    metavar="[SECONDS]",
    type=click.FloatRange(min=1),
    help="Look again every so many seconds (10), until the run is done or stopped.",
)
def command(run_name: str, as_json: bool, watch: float | None) -> None:
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
    with live if terminal and watch and not as_json else nullcontext():
        before, stalls = "", 0
        while watch:
            if live.is_started:
                live.update(status.view(), refresh=True)
            elif (line := status.change()) != before:
                click.echo(json.dumps(status.to_json()) if as_json else f"{time.strftime('%H:%M:%S')} {line}")
                before = line
            # Between two stages a chain may look stalled for a moment.
            stalls = stalls + 1 if status.survey.state == "stalled" else 0
            if status.over and stalls != 1:
                break
            time.sleep(watch)
            status = look(run)
    if as_json and not watch:
        click.echo(json.dumps(status.to_json(), indent=1))
    elif not as_json and not (watch and terminal):
        console.print(status.view())
    raise click.exceptions.Exit(status.exit_code)
