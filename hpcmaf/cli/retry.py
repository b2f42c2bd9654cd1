"""``hpcmaf retry``: give failed tasks a fresh start."""

from __future__ import annotations

import shlex
from typing import Any

import click

from hpcmaf.cli.options import read_selection, task_options


@click.command()
@click.argument("run_name", metavar="RUN")
@task_options()
@click.option(
    "--set-profile", "site", multiple=True, metavar="KEY=VALUE", help="Change a key of the run's profile; repeatable."
)
def command(run_name: str, site: tuple[str, ...], **which: Any) -> None:
    """Submit failed tasks of a run on a cluster again, and let the chain go on.

    Without a choice all of them, and a run that was cancelled or has stalled
    goes on. What failed before no longer counts against the profile's
    attempts. Recipe and profile are the run's own.
    """
    from hpcmaf.cli.submit import show_submitted
    from hpcmaf.config.profile import load_profile
    from hpcmaf.errors import ConfigError
    from hpcmaf.launch.logs import TaskFilter
    from hpcmaf.launch.slurm.gate import PROMPT_SECONDS
    from hpcmaf.launch.slurm.retry import retry
    from hpcmaf.run.directory import RunDir

    run = RunDir.locate(run_name)
    plan = run.load_plan()
    profile = load_profile(str(run.profile), site)
    root = shlex.quote(str(run.root))
    if profile.launcher != "slurm":
        raise ConfigError(
            f"{run.root}: runs on this machine, not on a cluster; go on with: hpcmaf submit "
            f"--recipe {shlex.quote(str(run.recipe))} --profile {shlex.quote(str(run.profile))} --run {root}"
        )
    selection = read_selection(**which)
    chosen = selection.keys(plan)
    with run.drive(PROMPT_SECONDS):
        slurm = retry(run, plan, profile, chosen, whole=selection == TaskFilter())
    if slurm is None:
        click.echo(f"{run.root}: nothing to retry; no chosen task has failed", err=True)
        return
    show_submitted(run, slurm.submitted)
