"""``hpcmaf retry``: give failed tasks a fresh start."""

from __future__ import annotations

import click

from hpcmaf.cli.options import RunOptions, run_argument, site_option
from hpcmaf.cli.submit import carry_on
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.run.directory import RunDir


@click.command()
@run_argument
@site_option
def command(run: RunDir, site: tuple[str, ...]) -> None:
    """Give failed tasks of a run another try, and let it go on.

    So does a run that was cancelled or has stalled. What failed before no
    longer counts against the profile's attempts. Recipe and profile are the
    run's own.
    """
    recipe = Recipe.model_validate(run.load_plan().recipe)
    carry_on(RunOptions(run, recipe, load_profile(str(run.profile), site)))
