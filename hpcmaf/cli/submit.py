"""``hpcmaf submit``: run a recipe."""

from __future__ import annotations

import shlex
import signal
import sys
import time

import click

from hpcmaf.cli.options import RunOptions, run_options
from hpcmaf.cli.plan import show_plan
from hpcmaf.launch.doctor import profile_findings
from hpcmaf.launch.local import POLL_SECONDS, Servers, drive
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.launch.progress import Watcher
from hpcmaf.launch.slurm.gate import PROMPT_SECONDS, submit
from hpcmaf.report.report import aggregate


@click.command()
@run_options
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do none of it: hpcmaf plan.")
def command(options: RunOptions, dry_run: bool) -> None:
    """Run a recipe from the untouched base to the table.

    The same command goes on with a run that was interrupted, and repeats only
    what was in flight. More --iters extend a finished run. With a profile of
    launcher: slurm it submits jobs and returns; the table is written when they
    are done.
    """
    if dry_run:
        show_plan(options)
    else:
        carry_on(options)


def carry_on(options: RunOptions) -> None:
    """Do what is left of a run on this machine, or submit it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as orderly as Ctrl-C
    if options.profile.launcher == "slurm":
        submit_run(options)
    else:
        _drive(options)


def _drive(options: RunOptions) -> None:
    run, profile = options.run, options.profile
    with run.drive():
        plan = prepare_run(run, options.recipe, profile)
    watcher = Watcher(run, plan, profile, sys.stderr)
    tasks = sum(len(stage.tasks) for stage in plan.stages)
    watcher.say(f"{options.headline(plan)}, {tasks} tasks, {profile.slots()} at once")
    with Servers(profile, run.root) as servers:
        for _ in drive(run, plan, profile, watcher, servers):
            time.sleep(POLL_SECONDS)
    report = aggregate([run.root], run.report)
    report.print()
    click.echo(f"table and plot: {run.report}", err=True)


def submit_run(options: RunOptions) -> None:
    """Submit what is left of a run to Slurm, and say what that was."""
    run, profile = options.run, options.profile
    # A gate, or a second submit, holds a run for seconds: wait for it rather than refuse.
    with run.drive(PROMPT_SECONDS):
        plan = prepare_run(run, options.recipe, profile)
        for found in profile_findings(profile):
            click.echo(f"warning: {found.text}; {found.remedy}", err=True)
        submitted = submit(run, plan, profile).submitted
    for sent in submitted:
        tasks = [task for element in sent.elements for task in element]
        more = f" and {len(tasks) - 4} more" if len(tasks) > 4 else ""
        what = "gate" if sent.gate else f"{', '.join(tasks[:4])}{more}"
        click.echo(f"{sent.stage}: {what}, job {sent.job}", err=True)
    if not submitted:
        click.echo(f"{run.root}: nothing to submit; all of it is done, or in Slurm's hands", err=True)
    click.echo(f"follow it with: hpcmaf status {shlex.quote(str(run.root))}", err=True)
