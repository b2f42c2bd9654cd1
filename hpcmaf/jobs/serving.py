"""What an engine has to serve for the society of an iteration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS
from hpcmaf.engines.base import ServedModels
from hpcmaf.engines.basemodel import base_model, load
from hpcmaf.engines.options import AdapterShape
from hpcmaf.errors import DataError
from hpcmaf.files.publish import read_json
from hpcmaf.run.directory import RunDir
from hpcmaf.run.records import Ended


def trained_agents(recipe: Recipe) -> Sequence[str]:
    """Agents of a run that have a model of their own."""
    return METHODS[recipe.method].trained_agents(recipe.debate.agents, recipe.debate.rounds)


def last_society(run: RunDir, recipe: Recipe) -> int:
    """The last iteration whose models are all there, or the one that the alarm keeps; 0 is the untouched base."""
    if recipe.early_stop and run.ended.exists():
        return read_json(run.ended, Ended)["kept"]
    agents = trained_agents(recipe)
    there = [t for t in run.iterations() if t and agents and all(run.agent(t, agent).is_dir() for agent in agents)]
    return max(there, default=0)


def voting_weights(run: RunDir, recipe: Recipe, iteration: int, agents: int) -> str:
    """Weights of agents' votes after the training debates of an iteration, as stores have them; empty without any.

    Raises
    ------
    OSError, DataError
        The selection of that iteration is missing or damaged.
    """
    if recipe.debate.vote == "plurality" or iteration < 1:
        return ""
    weights = run.learned(iteration).get("agreement", [])[:agents]
    return json.dumps(weights) if any(weights) else ""


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
    return models_of(recipe, models)


def models_of(recipe: Recipe, agents: Mapping[str, str]) -> ServedModels:
    """A recipe's base with agents' models, by name."""
    model = recipe.model
    return ServedModels(
        base=base_model(model.path),
        tuning=recipe.training.tuning,
        agents=agents,
        dtype=model.dtype,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        chat=model.chat,
    )


def adapter_room(recipe: Recipe, served: ServedModels) -> AdapterShape | None:
    """Room for the adapters that a run will make, so that a server started before there is one can take them."""
    agents, lora = trained_agents(recipe), recipe.training.lora
    if recipe.training.tuning == "full" or not agents:
        return None
    modules = linear_modules(served) if lora.targets == "all-linear" else tuple(sorted(lora.targets))
    return AdapterShape(len(agents), lora.rank, modules)


def linear_modules(served: ServedModels) -> tuple[str, ...]:
    """Names of a model's linear layers but the output layer, which is what PEFT calls all-linear."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = load(AutoConfig, served, served.base)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=served.trust_remote_code)
    output = model.get_output_embeddings()
    layers = model.named_modules()
    linear = (name for name, layer in layers if isinstance(layer, torch.nn.Linear) and layer is not output)
    return tuple(sorted({name.rpartition(".")[2] for name in linear}))
