"""What a run has made of one agent, or of its society, for use elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS, SINGLE
from hpcmaf.errors import DataError, UsageError
from hpcmaf.files.publish import atomic_path
from hpcmaf.jobs.finetune import job_of
from hpcmaf.jobs.serving import last_society
from hpcmaf.models.basemodel import base_model
from hpcmaf.run.directory import RunDir
from hpcmaf.selection.select import write_selection
from hpcmaf.training.job import run_finetune


def export(run: RunDir, out: Path, what: str, *, agent: str | None = None, iteration: int | None = None) -> list[int]:
    """Publish what a run has made.

    Parameters
    ----------
    what
        Of an agent its ``adapter``, its whole ``model`` with an adapter merged into the base, or its training sets
        (``data``, chats as TRL reads them). Of the society ``society-in-one``: a model that says alone what its debates
        come to. Method ``distil`` has trained one; for any other it is finetuned here, on this machine, from the base
        and as the recipe's ``training`` says, but to imitate. That has its data, log and checkpoints in the iteration's
        folder ``society-in-one``: a call that was killed resumes.
    agent
        Whose; ``None`` for a society.
    iteration
        Which one's; if ``None`` the last, or the one that an alarm keeps; of data all.

    Returns
    -------
    list of int
        The iterations.

    Raises
    ------
    DataError, UsageError
        The run has no such thing.
    TrainingError
        Finetuning failed.
    """
    recipe = Recipe.model_validate(run.load_plan().recipe)
    method = METHODS[recipe.method]
    if not recipe.trained:
        raise DataError(f"{run.root}: method {recipe.method} trains no agent, so there is nothing to export")
    if agent not in {None, *recipe.trained}:
        raise UsageError(f"--agent {agent}: not one that the run trains; they are {', '.join(recipe.trained)}")
    if agent is None and method.reads_gold:
        raise UsageError(f"{run.root}: method {method.name} holds no debates; export its model with --agent {SINGLE}")
    if agent is None and method.trained == "distilled":
        agent, what = SINGLE, "model"
    wanted = [] if iteration is None else [iteration]
    if what == "data":
        chosen = run.having(lambda t: run.dataset(t, agent), f"{agent} has no training set", wanted)
        with atomic_path(out) as temporary:
            temporary.mkdir()
            for t in chosen:
                shutil.copyfile(run.dataset(t, agent), temporary / f"{run.iteration(t).name}-{agent}.jsonl")
        return list(chosen)
    if agent is None:
        *_, t = run.having(lambda t: run.store(t, "debate"), "no debates on training problems", wanted)
        model = _society_in_one(run, recipe, t)
    else:
        recipe = recipe.of(agent)
        if not wanted and run.ended.exists():
            wanted = [last_society(run, recipe)]
        *_, t = run.having(lambda t: run.agent(t, agent), f"{agent} has no model", wanted)
        model = run.agent(t, agent)
    whole = recipe.training.tuning == "full"
    if whole and what == "adapter":
        raise UsageError(f"{run.root}: training.tuning is full, so there is no adapter; export it with --as model")
    if whole or what == "adapter":
        with atomic_path(out) as temporary:
            shutil.copytree(model, temporary)
        return [t]
    from hpcmaf.training.saving import merge_adapter

    base = recipe.model
    merge_adapter(base_model(base.path), model, out, revision=base.revision, trust_remote_code=base.trust_remote_code)
    return [t]


def _society_in_one(run: RunDir, recipe: Recipe, t: int) -> Path:
    """Finetune one model on the voted responses of an iteration's debates, unless that has been done."""
    work, debates = run.iteration(t) / "society-in-one", run.store(t, "debate")
    if (work / "model").is_dir():
        return work / "model"
    thinking = recipe.training.thinking
    found = write_selection(debates, work / "data", recipe.selection, seed=recipe.seed, data="voted", thinking=thinking)
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
    return work / "model"
