"""``hpcmaf retry``: give failed tasks a fresh start."""

from __future__ import annotations

import shlex

import click


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option(
    "--set-profile", "site", multiple=True, metavar="KEY=VALUE", help="Change a key of the run's profile; repeatable."
)
def command(run_name: str, site: tuple[str, ...]) -> None:
    """Submit failed tasks of a run on a cluster again, and let the chain go on.

    So does a run that was cancelled or has stalled. What failed before no
    longer counts against the profile's attempts. Recipe and profile are the
    run's own.
    """
    from hpcmaf.cli.submit import show_submitted
    from hpcmaf.config.profile import load_profile
    from hpcmaf.config.recipe import Recipe
    from hpcmaf.errors import ConfigError
    from hpcmaf.launch.prepare import write_profile
    from hpcmaf.launch.slurm.gate import PROMPT_SECONDS, submit
    from hpcmaf.run.directory import RunDir
    from hpcmaf.run.plan import build_plan, check_continues

    run = RunDir.locate(run_name)
    plan = run.load_plan()
    profile = load_profile(str(run.profile), site)
    if profile.launcher != "slurm":
        recipe, own, root = (shlex.quote(str(path)) for path in (run.recipe, run.profile, run.root))
        raise ConfigError(
            f"{run.root}: runs on this machine, not on a cluster; go on with: hpcmaf submit --recipe {recipe} "
            f"--profile {own} --run {root}"
        )
    # The profile may not cut the run into other shards than it was planned with.
    again = build_plan(Recipe.model_validate(plan.recipe), profile, plan.problems, plan.base)
    check_continues(plan, again, str(run.root))
    with run.drive(PROMPT_SECONDS):
        write_profile(run, profile)
        show_submitted(run, submit(run, plan, profile).submitted)
