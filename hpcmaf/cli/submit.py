"""``hpcmaf submit``: run a recipe."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click
from rich.console import Console

from hpcmaf.errors import UsageError
from hpcmaf.profile import DEFAULT_PROFILE, Profile, load_profile
from hpcmaf.recipe import DEFAULT_RECIPE, Recipe, load_recipe
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
    from hpcmaf.report import aggregate

    loaded, where = load_recipe(recipe, overrides, iters), load_profile(profile, site)
    if run_name is not None and not run_name.strip():
        raise UsageError("--run is empty; name a run directory, or leave the option out")
    run = RunDir.locate(run_name or loaded.name)
    run.check_own()
    signal.signal(signal.SIGTERM, _interrupt)
    with run.drive():
        _drive(run, loaded, where)
    report = aggregate([run.root], run.report)
    report.print(Console(file=sys.stdout))
    click.echo(f"table and plot: {run.report}", err=True)


def _drive(run: RunDir, recipe: Recipe, profile: Profile) -> None:
    from hpcmaf.launch.local import LocalDriver
    from hpcmaf.launch.prepare import prepare_run
    from hpcmaf.launch.progress import Watcher

    plan = prepare_run(run, recipe, profile)
    watcher = Watcher(run, plan, profile.slots(), Console(stderr=True))
    tasks = sum(len(stage.tasks) for stage in plan.stages)
    watcher.say(
        f"{run.root}: {recipe.method} on {recipe.task.name}, N={recipe.debate.agents}, M={recipe.debate.rounds}, "
        f"{plan.iterations} iterations, {tasks} tasks, {profile.slots()} at once"
    )
    LocalDriver(run, plan, profile, watcher).drive()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM stop a run as orderly as Ctrl-C does."""
    raise KeyboardInterrupt
