"""The society of a finished iteration, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpcmaf.engines.base import ServedModels
from hpcmaf.errors import DataError
from hpcmaf.methods import METHODS
from hpcmaf.recipe import Recipe
from hpcmaf.rundir import RunDir
from hpcmaf.engines.basemodel import base_model


def trained_agents(recipe: Recipe) -> Sequence[str]:
    """Agents of a run that have a model of their own."""
    return METHODS[recipe.method].trained_agents(recipe.debate.agents, recipe.debate.rounds)


def last_society(run: RunDir, recipe: Recipe) -> int:
    """The last iteration whose models are all there; 0 is the untouched base."""
    agents = trained_agents(recipe)
    there = [t for t in run.iterations() if t and agents and all(run.agent(t, agent).is_dir() for agent in agents)]
    return max(there, default=0)


def served_models(run: RunDir, recipe: Recipe, iteration: int) -> ServedModels:
    """What an engine has to serve for the society of an iteration.

    Raises
    ------
    DataError
        A model is missing; the message names it.
    """
    models = {agent: str(run.agent(iteration, agent)) for agent in (trained_agents(recipe) if iteration else ())}
    for agent, folder in models.items():
        if not Path(folder).is_dir():
            raise DataError(
                f"{folder}: the model of {agent} is missing; finish the iteration, copy its models, or name another"
            )
    model = recipe.model
    return ServedModels(
        base=base_model(model.path),
        tuning=recipe.training.tuning,
        agents=models,
        dtype=model.dtype,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        date=model.date,
    )
