"""Stage ``finetune``: one agent's model, from its own data alone."""

from __future__ import annotations

import shutil
from typing import Any

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import SINGLE
from hpcmaf.jobs.context import TaskContext
from hpcmaf.models.basemodel import base_model
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.job import run_finetune


def finetune_job(context: TaskContext) -> FinetuneJob:
    """Everything torchrun has to know, from recipe, profile and run directory."""
    agent, t = context.task, context.iteration
    recipe = context.recipe.of(agent)
    previous = context.run.agent(t - 1, agent)
    goes_on = recipe.training.start_from == "previous" and t > 1
    return job_of(
        recipe,
        start=str(previous) if goes_on else None,
        dataset=str(context.run.dataset(t, agent)),
        output=str(context.run.agent(t, agent)),
        iteration=t,
        agent=agent,
        micro_batch_size=max(1, recipe.training.micro_batch_size >> context.halvings),
        checkpoints=str(context.run.checkpoints(t, agent)),
        nodes=context.place.nodes if context.place else 1,
        **context.profile.finetuning.model_dump(),
    )


def job_of(recipe: Recipe, **values: Any) -> FinetuneJob:
    """A job on a recipe's base, trained as its ``training`` says but for ``values``."""
    model = recipe.model
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code, "dtype": model.dtype}
    own = {"base": base_model(model.path), "seed": recipe.seed, **source, **model.chat}
    return FinetuneJob(**own | recipe.training.model_dump() | values)


def run_agent_finetune(context: TaskContext) -> None:
    """Finetune one agent with DeepSpeed and publish its model."""
    job = finetune_job(context)
    if context.task == SINGLE and context.recipe.selection.on_policy:
        from hpcmaf.jobs.distil import on_policy_data  # generates: imports what few jobs need

        job = job.replace(dataset=str(on_policy_data(context, goes_on=job.start is not None)))

    def progress(line: dict[str, Any]) -> None:
        context.report_progress(line["step"], line["steps"], "steps")

    if context.place is not None:
        context.report_progress(0, job.nodes, "nodes", lambda: f"its {job.nodes} nodes are meeting, or load the model")
    report = run_finetune(
        job, context.attempt, progress, stop=context.stop, node=context.place, workers=context.workers
    )
    context.afterwards.append(lambda: shutil.rmtree(job.checkpoints, ignore_errors=True))
    context.spend(
        context.task,
        training_tokens=report.training_tokens,
        wall_seconds=report.wall_seconds,
        gpu_seconds=report.gpu_seconds,
        peak_memory_bytes=report.peak_memory_bytes,
    )
    print(f"{context.task}: {report.steps} steps on {report.samples} samples", flush=True)
