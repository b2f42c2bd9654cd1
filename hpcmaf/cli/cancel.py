"""``hpcmaf cancel``: end a run's jobs."""

from __future__ import annotations

import shlex
import sys

import click

from hpcmaf.cli.options import run_argument
from hpcmaf.config.profile import load_profile
from hpcmaf.errors import ConfigError, UsageError
from hpcmaf.launch.slurm.gate import cancel_run, live_jobs
from hpcmaf.run.directory import RunDir


@click.command()
@run_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--wait", default=120, show_default=True, help="Seconds to wait until Slurm has none of its jobs left.")
def command(run: RunDir, yes: bool, wait: int) -> None:
    """Cancel all jobs of a run on a cluster.

    What is done stays done, and what was begun goes on from where it was:
    'hpcmaf retry' continues the run. Twice is as good as once.
    """
    plan, profile = run.load_plan(), load_profile(str(run.profile))
    if profile.launcher != "slurm":
        raise ConfigError(
            f"{run.root}: runs on this machine; end its 'hpcmaf submit' with Ctrl-C or kill (fuser {run.driver_lock})"
        )
    ours = live_jobs(run, profile)
    if not ours and all(run.done(stage, task) for stage in plan.stages for task in stage.tasks):
        click.echo(f"{run.root}: is done; there is nothing to cancel", err=True)
        return
    if ours and not yes:
        question = f"cancel {len(ours)} job(s) of {run.root}?"
        if not sys.stdin.isatty():
            raise UsageError(f"{question} Say so with --yes")
        click.confirm(question, abort=True, err=True)
    if not cancel_run(run, profile, seconds=wait, say=lambda line: click.echo(line, err=True)):
        click.echo(f"{run.root}: Slurm has no jobs of it; the chain is stopped", err=True)
    click.echo(f"go on with: hpcmaf retry {shlex.quote(str(run.root))}", err=True)
