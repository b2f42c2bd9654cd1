"""``hpcmaf submit``: run a recipe."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click
from rich.console import Console

from hpcmaf.profile import DEFAULT_PROFILE, load_profile
from hpcmaf.recipe import DEFAULT_RECIPE, load_recipe
from hpcmaf.rundir import RunDir


@click.command()
@click.option("--recipe", default=DEFAULT_RECIPE, show_default=True, help="File, or name of a shipped recipe.")
@click.option("--profile", default=DEFAULT_PROFILE, show_default=True, help="File, or name of a shipped profile.")
@click.option("--iters", type=click.IntRange(min=0), help="L, the number of iterations; overrides the recipe.")
@click.option("--run", "run_name", help="Run directory, or a name under runs/; default: the recipe's name.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; repeatable.")
@click.option("--set-profile", "site", multiple=True, metavar="KEY=VALUE", help="Override a profile key; repeatable.")
def command(
    recipe: str,
    profile: str,
    iters: int | None,
    run_name: str | None,
    overrides: tuple[str, ...],
    site: tuple[str, ...],
) -> None:
    """Run a recipe from the untouched base to the table.

    The same command goes on with a run that was interrupted, and repeats only
    what was in flight. More --iters extend a finished run.
    """
    from hpcmaf.launch.local import LocalDriver
    from hpcmaf.launch.prepare import prepare_run
    from hpcmaf.launch.progress import Watcher
    from hpcmaf.report import aggregate

    loaded, where = load_recipe(recipe, overrides, iters), load_profile(profile, site)
    run = RunDir.locate(run_name or loaded.name)
    plan = prepare_run(run, loaded, where)

    console = Console(stderr=True)
    watcher = Watcher(run, plan, where.slots(), console)
    tasks = sum(len(stage.tasks) for stage in plan.stages)
    debate = loaded.debate
    watcher.say(
        f"{run.root}: {loaded.method} on {loaded.task.name}, N={debate.agents}, M={debate.rounds}, "
        f"{plan.iterations} iterations, {tasks} tasks, {where.slots()} at once"
    )
    signal.signal(signal.SIGTERM, _interrupt)
    LocalDriver(run, plan, where, watcher).drive()

    report = aggregate([run.root], run.report)
    report.print(Console(file=sys.stdout))
    click.echo(f"table and plot: {run.report}", err=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM stop a run as orderly as Ctrl-C does."""
    raise KeyboardInterrupt
