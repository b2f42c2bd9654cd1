"""Options of all verbs that plan a run, and what they name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from hpcmaf.config.profile import DEFAULT_PROFILE, Profile, load_profile
from hpcmaf.config.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from hpcmaf.errors import UsageError
from hpcmaf.run.directory import RunDir

# A site stays the same from command to command; said once in the environment,
# 'sbatch slurm/iterate.sh' and 'hpcmaf submit --iters 5' are all there is to type.
PROFILE_VARIABLE = "HPCMAF_PROFILE"

_OPTIONS = (
    click.option(
        "--recipe",
        default=DEFAULT_RECIPE,
        envvar="HPCMAF_RECIPE",
        show_default=True,
        show_envvar=True,
        help="File, or name of a shipped recipe.",
    ),
    click.option(
        "--profile",
        default=DEFAULT_PROFILE,
        envvar=PROFILE_VARIABLE,
        show_default=True,
        show_envvar=True,
        help="File, or name of a shipped profile.",
    ),
    click.option("--method", metavar="METHOD", help="A row of the table of methods; overrides the recipe."),
    click.option("--agents", type=click.IntRange(min=1), help="N, the number of agents; overrides the recipe."),
    click.option("--iters", type=click.IntRange(min=0), help="L, the number of iterations; overrides the recipe."),
    click.option("--run", "run_name", help="Run directory, or a name under runs/; default: the recipe's name."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; repeatable."),
    click.option(
        "--set-profile", "site", multiple=True, metavar="KEY=VALUE", help="Override a profile key; repeatable."
    ),
)


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which run."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Asked:
    """Which run, of what, where."""

    run: RunDir
    recipe: Recipe
    profile: Profile


def read_options(
    recipe: str,
    profile: str,
    method: str | None,
    agents: int | None,
    iters: int | None,
    run_name: str | None,
    overrides: tuple[str, ...],
    site: tuple[str, ...],
) -> Asked:
    """Read what the options name.

    Raises
    ------
    ConfigError, UsageError
        One line: what is wrong, and where.
    """
    if method is not None:
        overrides = (*overrides, f"method={method}")
    if agents is not None:
        overrides = (*overrides, f"debate.agents={agents}")
    loaded, where = load_recipe(recipe, overrides, iters), load_profile(profile, site, os.environ)
    if run_name is not None and not run_name.strip():
        raise UsageError("--run is empty; name a run directory, or leave the option out")
    run = RunDir.locate(run_name or loaded.name)
    from hpcmaf.launch.prepare import refuse_foreign

    refuse_foreign(run)
    return Asked(run, loaded, where)
