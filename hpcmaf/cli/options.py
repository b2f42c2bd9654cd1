"""What several verbs share: which run, and libraries that keep quiet."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from hpcmaf.config import DEFAULT_PROFILE, DEFAULT_RECIPE
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import UsageError
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan

# A site stays the same from command to command; named once in the environment,
# 'sbatch slurm/iterate.sh' and 'hpcmaf submit --iters 5' are all there is to type.
PROFILE_VARIABLE = "HPCMAF_PROFILE"

run_argument = click.argument("run", metavar="RUN", type=RunDir.locate)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Of models."
)
profile_option = click.option(
    "--profile",
    default=DEFAULT_PROFILE,
    envvar=PROFILE_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="File, or name of a shipped profile.",
)
iterations_option = click.option(
    "--iters", type=click.IntRange(min=0), help="L, the number of iterations; overrides the file."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; repeatable."
)
site_option = click.option(
    "--set-profile", "site", multiple=True, metavar="KEY=VALUE", help="Override a profile key; repeatable."
)
_RUN_OPTIONS = (
    click.option(
        "--recipe",
        default=DEFAULT_RECIPE,
        envvar="HPCMAF_RECIPE",
        help="File, or name of a shipped recipe.",
        show_default=True,
        show_envvar=True,
    ),
    profile_option,
    click.option("--method", metavar="METHOD", help="A row of the table of methods; overrides the recipe."),
    click.option("--agents", type=click.IntRange(min=1), help="N, the number of agents; overrides the recipe."),
    iterations_option,
    click.option("--run", "run_name", help="Run directory, or a name under runs/; default: the recipe's name."),
    set_option,
    site_option,
)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which run, of what, where."""

    run: RunDir
    recipe: Recipe
    profile: Profile

    def headline(self, plan: Plan) -> str:
        """What a run is, in one line."""
        recipe = self.recipe
        return (
            f"{self.run.root}: {recipe.method} on {recipe.task.name}, N={recipe.debate.agents}, "
            f"M={recipe.debate.rounds}, {'at most ' * recipe.early_stop}{plan.iterations} iterations"
        )


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which run to plan, and call it with the :class:`RunOptions` they come to."""

    @wraps(function)
    def command(
        recipe: str, profile: str, iters: int | None, run_name: str | None, site: tuple[str, ...], **others: Any
    ) -> Any:
        from hpcmaf.launch.prepare import refuse_foreign

        named = {"method": others.pop("method"), "debate.agents": others.pop("agents")}
        overrides = [*others.pop("overrides"), *(f"{key}={value}" for key, value in named.items() if value is not None)]
        loaded, where = load_recipe(recipe, overrides, iters), load_profile(profile, site, os.environ)
        if run_name is not None and not run_name.strip():
            raise UsageError("--run is empty; name a run directory, or leave the option out")
        run = RunDir.locate(run_name or loaded.name)
        refuse_foreign(run)
        return function(RunOptions(run, loaded, where), **others)

    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


def quiet_libraries() -> None:
    """Keep bars and advice of libraries out of a verb's output; to be called before they are imported."""
    # peft imports both where they are installed, and neither has work here.
    # DeepSpeed sets its level itself, but leaves filters alone; it warns on standard output.
    for name in ("DeepSpeed", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights
