"""What a run has made of one agent, for use elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hpcmaf.config.recipe import Recipe
from hpcmaf.engines.basemodel import base_model
from hpcmaf.errors import DataError, UsageError
from hpcmaf.files.publish import atomic_path
from hpcmaf.jobs.serving import last_society, trained_agents
from hpcmaf.run.directory import RunDir


def export_model(run: RunDir, agent: str, out: Path, *, iteration: int | None = None, merge: bool = False) -> int:
    """Copy an agent's model, or merge its adapter into the base.

    Parameters
    ----------
    iteration
        Whose; the last that has the model if ``None``, or the one that an
        alarm keeps.
    merge
        A checkpoint that needs no adapter; a full finetuning's is one
        already.

    Returns
    -------
    int
        The iteration.

    Raises
    ------
    DataError, UsageError
        No such agent, or it has no model there.
    """
    recipe = _recipe(run, agent).of(agent)
    there = [t for t in run.iterations() if run.agent(t, agent).is_dir()]
    if iteration is None and run.ended.exists():
        iteration = last_society(run, recipe)
    t = _which(iteration, there, f"{run.root}: {agent} has no model")
    if not merge and recipe.training.tuning == "full":
        raise UsageError(f"{run.root}: training.tuning is full, so there is no adapter; export it with --as model")
    if not merge or recipe.training.tuning == "full":
        with atomic_path(out) as temporary:
            shutil.copytree(run.agent(t, agent), temporary)
        return t
    from hpcmaf.training.saving import merge_adapter

    model = recipe.model
    merge_adapter(
        base_model(model.path),
        run.agent(t, agent),
        out,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )
    return t


def export_data(run: RunDir, agent: str, out: Path, *, iteration: int | None = None) -> list[int]:
    """Copy an agent's training sets, ``itTT-AGENT.jsonl`` of every iteration.

    They are chats, a line each with ``messages``, as TRL reads them.

    Parameters
    ----------
    iteration
        Whose; all that have one if ``None``.

    Returns
    -------
    list of int
        The iterations.

    Raises
    ------
    DataError, UsageError
        No such agent, or it has no data there.
    """
    _recipe(run, agent)
    there = [t for t in run.iterations() if run.dataset(t, agent).is_file()]
    last = _which(iteration, there, f"{run.root}: {agent} has no training set")
    chosen = there if iteration is None else [last]
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for t in chosen:
            shutil.copyfile(run.dataset(t, agent), temporary / f"{run.iteration(t).name}-{agent}.jsonl")
    return chosen


def _recipe(run: RunDir, agent: str) -> Recipe:
    recipe = Recipe.model_validate(run.load_plan().recipe)
    agents = trained_agents(recipe)
    if not agents:
        raise DataError(f"{run.root}: method {recipe.method} trains no agent, so there is nothing to export")
    if agent not in agents:
        raise UsageError(f"--agent {agent}: not one that the run trains; they are {', '.join(agents)}")
    return recipe


def _which(iteration: int | None, there: Sequence[int], lacking: str) -> int:
    if iteration is None and there:
        return there[-1]
    if iteration is None or iteration not in there:
        others = f"; iterations that have one: {', '.join(map(str, there))}" if there else " yet; finish an iteration"
        raise DataError(f"{lacking}{'' if iteration is None else f' of iteration {iteration}'}{others}")
    return iteration
