"""``hpcmaf status``: how a run is."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpcmaf.launch.status import Status
    from hpcmaf.run.directory import RunDir

_WATCH_SECONDS = 10.0


class _Command(click.Command):
    """Lets ``--watch RUN`` mean what it says: RUN is no number of seconds."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Give a bare ``--watch`` its default before click takes the next word for its value."""
        for position, word in enumerate(args[:-1]):
            if word == "--watch" and not _is_number(args[position + 1]):
                args = [*args[:position], f"--watch={_WATCH_SECONDS}", *args[position + 1 :]]
        return super().parse_args(context, args)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@click.command(cls=_Command)
@click.argument("run_name", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Write JSON; with --watch, an object per line.")
@click.option(
    "--watch",
    metavar="[SECONDS]",
    type=click.FloatRange(min=1),
    is_flag=False,
    flag_value=_WATCH_SECONDS,
    help="Look again every so many seconds (10), until the run is done or stopped.",
)
def command(run_name: str, as_json: bool, watch: float | None) -> None:
    """Show how far a run is, what failed and why, and what to do next.

    RUN is a run directory, or a name under runs/. Nothing is written to it.
    The exit code is 0 while the run is well, 15 when it was stopped or has
    stalled, 13 when Slurm does not answer.
    """
    from hpcmaf.launch.status import look
    from hpcmaf.run.directory import RunDir

    run = RunDir.locate(run_name)
    if watch is not None:
        status = _watch(run, watch, as_json)
    else:
        status = look(run)
        _show(status, as_json)
    raise click.exceptions.Exit(status.exit_code)


def _show(status: Status, as_json: bool) -> None:
    from hpcmaf.launch.show import plain, rich

    if as_json:
        click.echo(json.dumps(status.to_json(), indent=1))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich(status), highlight=False, soft_wrap=False)
    else:
        click.echo(plain(status))


def _watch(run: RunDir, seconds: float, as_json: bool) -> Status:
    from hpcmaf.launch.show import change, stamped
    from hpcmaf.launch.status import look

    if sys.stdout.isatty() and not as_json:
        return _live(run, seconds)
    before, stalls = "", 0
    while True:
        status = look(run)
        if (line := change(status)) != before:
            click.echo(json.dumps(status.to_json()) if as_json else stamped(line))
            sys.stdout.flush()
            before = line
        # Between two stages a chain may look stalled for a moment.
        stalls = stalls + 1 if status.survey.state == "stalled" else 0
        if status.over and stalls != 1:
            break
        time.sleep(seconds)
    if not as_json:
        _show(status, as_json=False)
    return status


def _live(run: RunDir, seconds: float) -> Status:
    from rich.console import Console
    from rich.live import Live

    from hpcmaf.launch.show import rich
    from hpcmaf.launch.status import look

    status, stalls = look(run), 0
    with Live(rich(status), console=Console(), auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            stalls = stalls + 1 if status.survey.state == "stalled" else 0
            if status.over and stalls != 1:
                return status
            time.sleep(seconds)
            status = look(run)
            live.update(rich(status), refresh=True)
