"""``hpcmaf retry``: give failed tasks a fresh start."""

from __future__ import annotations

import click


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option(
    "--set-profile", "site", multiple=True, metavar="KEY=VALUE", help="Change a key of the run's profile; repeatable."
)
def command(run_name: str, site: tuple[str, ...]) -> None:
    """Give failed tasks of a run another try, and let it go on.

    So does a run that was cancelled or has stalled. What failed before no
    longer counts against the profile's attempts. Recipe and profile are the
    run's own.
    """
    from hpcmaf.cli.options import RunOptions
    from hpcmaf.cli.submit import carry_on
    from hpcmaf.config.profile import load_profile
    from hpcmaf.config.recipe import Recipe
    from hpcmaf.run.directory import RunDir

    run = RunDir.locate(run_name)
    recipe = Recipe.model_validate(run.load_plan().recipe)
    carry_on(RunOptions(run, recipe, load_profile(str(run.profile), site)))
