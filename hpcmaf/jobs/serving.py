"""What an engine has to serve for the society of an iteration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS, SUMMARIZER, Society
from hpcmaf.engines.base import ServedModels
from hpcmaf.engines.options import AdapterShape
from hpcmaf.errors import DataError
from hpcmaf.files.publish import read_json
from hpcmaf.models.basemodel import base_model, load
from hpcmaf.run.directory import RunDir
from hpcmaf.run.records import Ended


def last_society(run: RunDir, recipe: Recipe) -> int:
    """The last iteration whose models are all there, or the one that the alarm keeps; 0 is the untouched base."""
    if recipe.early_stop and run.ended.exists():
        return read_json(run.ended, Ended)["kept"]
    agents = recipe.trained
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


def served_models(run: RunDir, recipe: Recipe, iteration: int) -> list[ServedModels]:
    """What has to be served for the society of an iteration: the recipe's base first, then others of agents.

    Raises
    ------
    DataError
        A model is missing; the message names it.
    """
    models = {agent: str(run.agent(iteration, agent)) for agent in (recipe.trained if iteration else ())}
    for agent, folder in models.items():
        if not Path(folder).is_dir():
            raise DataError(f"{folder}: the model of {agent} is missing; copy it there, or name another iteration")
    return models_of(recipe, models)


def with_own_base(recipe: Recipe) -> list[str]:
    """Agents, and the summarizer, whose base is not the recipe's."""
    return [name for name in recipe.named if recipe.of(name).model != recipe.model]


def society_of(recipe: Recipe, served: Sequence[ServedModels], *, evaluating: bool) -> Society:
    """Who speaks with which of the models that are served: one of its own, a base of its own, or else the recipe's."""
    names = {name for one in served for name in (*one.agents, *one.copies)}
    agents = recipe.shape(evaluating=evaluating).agents
    society = METHODS[recipe.method].society(agents, names, evaluating=evaluating)
    return replace(society, summarizer=SUMMARIZER) if SUMMARIZER in names else society


def models_of(recipe: Recipe, agents: Mapping[str, str]) -> list[ServedModels]:
    """Bases with their agents' models, by name: one for each base, and for adapters and whole checkpoints on it."""
    found = [_base_of(recipe)]
    for name in dict.fromkeys((*agents, *with_own_base(recipe))):
        base, tunings = _base_of(recipe.of(name)), ("lora", "full")
        alike = [base] if name in agents else [replace(base, tuning=tuning) for tuning in tunings]
        at = next((n for n, one in enumerate(found) if replace(one, agents={}, copies=()) in alike), len(found))
        one = found[at] if at < len(found) else base
        if name in agents:
            one = replace(one, agents={**one.agents, name: agents[name]})
        else:
            one = replace(one, copies=(*one.copies, name))
        found[at : at + 1] = [one]
    return found


def _base_of(recipe: Recipe) -> ServedModels:
    model = recipe.model
    return ServedModels(
        base=base_model(model.path),
        tuning=recipe.training.tuning,
        agents={},
        dtype=model.dtype,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        chat=model.chat,
        name=model.path,
    )


def adapter_room(recipe: Recipe, served: ServedModels) -> AdapterShape | None:
    """Room for the adapters that a run will make, so that a server started before there is one can take them."""
    agents = dict.fromkeys(recipe.trained, "")
    base = replace(served, agents={}, copies=())
    # Of the agents that will have an adapter on this base.
    mine = [one.agents for one in models_of(recipe, agents) if replace(one, agents={}, copies=()) == base]
    shapes = [recipe.of(agent).training.lora for agents in mine for agent in agents]
    if served.tuning == "full" or not shapes:
        return None
    targets = {target for lora in shapes if lora.targets != "all-linear" for target in lora.targets}
    if any(lora.targets == "all-linear" for lora in shapes):
        targets |= {*linear_modules(served)}
    return AdapterShape(len(shapes), max(lora.rank for lora in shapes), tuple(sorted(targets)))


def linear_modules(served: ServedModels) -> tuple[str, ...]:
    """Names of a model's linear layers but the output layer, which is what PEFT calls all-linear."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = load(AutoConfig, served.base, **served.source)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=served.trust_remote_code)
    output = model.get_output_embeddings()
    layers = model.named_modules()
    linear = (name for name, layer in layers if isinstance(layer, torch.nn.Linear) and layer is not output)
    return tuple(sorted({name.rpartition(".")[2] for name in linear}))
