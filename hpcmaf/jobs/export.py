"""What a run has made of one agent, or of its society, for use elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS, SINGLE
from hpcmaf.engines.basemodel import base_model
from hpcmaf.errors import DataError, UsageError
from hpcmaf.files.publish import atomic_path
from hpcmaf.jobs.finetune import job_of
from hpcmaf.jobs.serving import last_society
from hpcmaf.run.directory import RunDir
from hpcmaf.selection.select import write_selection
from hpcmaf.training.job import run_finetune


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
    _publish(recipe, run.agent(t, agent), out, merge=merge)
    return t


def export_society(run: RunDir, out: Path, *, iteration: int | None = None) -> int:
    """Publish one model that says alone what the society's debates come to.

    Method ``distil`` has trained it. For any other it is finetuned here, on
    this machine, from the base and as the recipe's ``training`` says, but to
    imitate. What it learns from, its log and its checkpoints are in the
    iteration's folder ``society-in-one``: a call that was killed resumes.

    Parameters
    ----------
    iteration
        Whose debates on training problems it learns from; the last that has
        them if ``None``.

    Returns
    -------
    int
        The iteration.

    Raises
    ------
    DataError, UsageError
        The run has no debates to learn from.
    TrainingError
        Finetuning failed.
    """
    recipe = _recipe(run)
    method = METHODS[recipe.method]
    if method.trained == "distilled":
        return export_model(run, SINGLE, out, iteration=iteration, merge=True)
    if method.reads_gold:
        raise UsageError(f"{run.root}: method {method.name} holds no debates; export its model with --agent {SINGLE}")
    there = [t for t in run.iterations() if run.store(t, "debate").is_file()]
    t = _which(iteration, there, f"{run.root}: no debates on training problems")
    work, thinking = run.iteration(t) / "society-in-one", recipe.training.thinking
    if not (work / "model").is_dir():
        debates = run.store(t, "debate")
        found = write_selection(
            debates, work / "data", recipe.selection, seed=recipe.seed, data="voted", thinking=thinking
        )
        if not found["datasets"][SINGLE]["kept"]:
            raise DataError(f"{debates}: no answer matches its debate's vote, so there is nothing to learn")
        job = job_of(
            recipe,
            objective="sft",
            dataset=str(work / "data" / f"{SINGLE}.jsonl"),
            output=str(work / "model"),
            checkpoints=str(work / "checkpoints"),
            iteration=t,
            agent=SINGLE,
        )
        run_finetune(job, work)
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
    _publish(recipe, work / "model", out, merge=True)
    return t


def _publish(recipe: Recipe, folder: Path, out: Path, *, merge: bool) -> None:
    if not merge or recipe.training.tuning == "full":
        with atomic_path(out) as temporary:
            shutil.copytree(folder, temporary)
        return
    from hpcmaf.training.saving import merge_adapter

    model = recipe.model
    merge_adapter(
        base_model(model.path), folder, out, revision=model.revision, trust_remote_code=model.trust_remote_code
    )


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


def _recipe(run: RunDir, agent: str | None = None) -> Recipe:
    recipe = Recipe.model_validate(run.load_plan().recipe)
    if not recipe.trained:
        raise DataError(f"{run.root}: method {recipe.method} trains no agent, so there is nothing to export")
    if agent is not None and agent not in recipe.trained:
        raise UsageError(f"--agent {agent}: not one that the run trains; they are {', '.join(recipe.trained)}")
    return recipe


def _which(iteration: int | None, there: Sequence[int], lacking: str) -> int:
    chosen = there[-1] if iteration is None and there else iteration
    if chosen is None or chosen not in there:
        which = "" if chosen is None else f" of iteration {chosen}"
        raise DataError(f"{lacking}{which}; iterations that have one: {', '.join(map(str, there)) or 'none yet'}")
    return chosen
