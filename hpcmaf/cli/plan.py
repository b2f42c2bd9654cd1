"""``hpcmaf plan``: what a run would do, before anything does it."""

from __future__ import annotations

import click

from hpcmaf.cli.options import RunOptions, read_options, run_options
from hpcmaf.errors import UsageError


@click.command()
@run_options
@click.option("--stage", "stage", metavar="STAGE", help="Batch scripts of this stage's jobs, such as it01/debate.")
@click.option("--all", "everything", is_flag=True, help="All batch scripts; without, one of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
@click.option("--write", is_flag=True, help="Make the run directory too, as submit does first.")
def command(stage: str | None, everything: bool, as_json: bool, write: bool, **which: object) -> None:
    """Show a run's stages, jobs and batch scripts, and the most it can cost.

    Submits nothing and, without --write, writes nothing. Slurm need not be
    installed here. A run in progress is shown with what is left of it.
    """
    options = read_options(**which)  # type: ignore[arg-type]
    if stage is not None and everything:
        raise UsageError("--stage and --all exclude each other; leave one out")
    if write:
        from hpcmaf.launch.prepare import prepare_run

        with options.run.drive():
            prepare_run(options.run, options.recipe, options.profile)
        click.echo(f"run directory: {options.run.root}", err=True)
    show_plan(options, stage=stage, everything=everything, as_json=as_json)


def show_plan(
    options: RunOptions, *, stage: str | None = None, everything: bool = False, as_json: bool = False
) -> None:
    """Print what submitting would do.

    Parameters
    ----------
    stage
        Show this stage's batch scripts instead of one of each kind.
    everything
        Show all batch scripts.
    """
    from hpcmaf.cli.planview import Choice, as_value, show
    from hpcmaf.launch.byhand import find_stage
    from hpcmaf.launch.prepare import plan_run
    from hpcmaf.launch.slurm.preview import preview

    _refuse_scripts(options, stage, everything)
    plan, _ = plan_run(options.run, options.recipe, options.profile)
    stage = stage and find_stage(plan, stage).id
    jobs = preview(options.run, plan, options.profile) if options.profile.launcher == "slurm" else None
    choice = Choice(options.run, plan, options.profile, jobs, stage, everything)
    if as_json:
        import json

        click.echo(json.dumps(as_value(choice), indent=1))
    else:
        show(choice)


def _refuse_scripts(options: RunOptions, stage: str | None, everything: bool) -> None:
    if options.profile.launcher == "local" and (stage is not None or everything):
        option = "--all" if everything else "--stage"
        raise UsageError(
            f"{option}: profile {options.profile.name} runs on this machine and has no batch scripts; leave it out, "
            "or name a profile of launcher: slurm with --profile"
        )
