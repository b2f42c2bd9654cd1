"""``hpcmaf submit``: run a recipe."""

from __future__ import annotations

import shlex
import signal
import sys
from types import FrameType

import click
from rich.console import Console

from hpcmaf.cli.options import read_options, run_options
from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.run.directory import RunDir

# A gate, or a second submit, holds a run for seconds: wait for it rather than refuse.
SUBMIT_PATIENCE_SECONDS = 60.0


@click.command()
@run_options
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do none of it: hpcmaf plan.")
def command(dry_run: bool, **which: object) -> None:
    """Run a recipe from the untouched base to the table.

    The same command goes on with a run that was interrupted, and repeats only
    what was in flight. More --iters extend a finished run. With a profile of
    launcher: slurm it submits jobs and returns; the table is written when they
    are done.
    """
    asked = read_options(**which)  # type: ignore[arg-type]
    run, loaded, where = asked.run, asked.recipe, asked.profile
    if dry_run:
        from hpcmaf.cli.plan import show_plan

        show_plan(asked)
        return
    signal.signal(signal.SIGTERM, _interrupt)
    if where.launcher == "slurm":
        from hpcmaf.launch.slurm.gate import hold

        with hold(run, SUBMIT_PATIENCE_SECONDS):
            _submit(run, loaded, where)
        return
    from hpcmaf.report import aggregate

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
    watcher = Watcher(run, plan, profile, Console(stderr=True))
    tasks = sum(len(stage.tasks) for stage in plan.stages)
    watcher.say(
        f"{run.root}: {recipe.method} on {recipe.task.name}, N={recipe.debate.agents}, M={recipe.debate.rounds}, "
        f"{plan.iterations} iterations, {tasks} tasks, {profile.slots()} at once"
    )
    LocalDriver(run, plan, profile, watcher).drive()


def _submit(run: RunDir, recipe: Recipe, profile: Profile) -> None:
    from hpcmaf.launch.doctor import profile_findings
    from hpcmaf.launch.prepare import prepare_run
    from hpcmaf.launch.slurm.start import start_chain

    plan = prepare_run(run, recipe, profile)
    for found in profile_findings(profile):
        click.echo(f"warning: {found.text}; {found.remedy}", err=True)
    chain = start_chain(run, plan, profile)
    for sent in chain.submitted:
        what = "gate" if sent.gate else f"{sum(map(len, sent.elements))} task(s)"
        click.echo(f"{sent.stage}: {what}, job {sent.job}", err=True)
    if not chain.submitted:
        click.echo(f"{run.root}: nothing to submit; all of it is done, or in Slurm's hands", err=True)
    click.echo(f"follow it with: hpcmaf status {shlex.quote(str(run.root))}", err=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM stop a run as orderly as Ctrl-C does."""
    raise KeyboardInterrupt
