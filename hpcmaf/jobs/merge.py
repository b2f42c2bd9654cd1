"""Stage ``merge``: shards to one store, and the agents' training sets."""

from __future__ import annotations

import time

from hpcmaf.debate.health import health_report, selected
from hpcmaf.jobs.context import TaskContext, peak_memory_bytes
from hpcmaf.selection.select import write_selection
from hpcmaf.store.merge import merge


def merge_shards(context: TaskContext, kind: str) -> None:
    """Merge the shards of ``debate`` or ``eval``, in the order of the problems file."""
    stage = next(s for s in context.plan.stages if s.iteration == context.iteration and s.kind == kind)
    problems = context.run.read_problems(stage.spec.split, context.plan)
    shards = [context.run.shard(context.iteration, kind, int(task)) for task in stage.tasks]
    merge(shards, context.run.store(context.iteration, kind), expected_ids=[problem.id for problem in problems])


def run_merge(context: TaskContext) -> None:
    """Merge the training debates and select every agent's data from them."""
    merge_shards(context, "debate")
    folder = context.run.data(context.iteration)
    summary = write_selection(
        context.run.store(context.iteration, "debate"),
        folder,
        context.recipe.selection,
        seed=context.recipe.seed,
        data=context.method.data,
        loss_on=context.recipe.training.loss_on,
        thinking=context.recipe.training.thinking,
        agreement=context.recipe.debate.vote == "weighted",
    )
    print(health_report(f"iteration {context.iteration}", selected(summary, context.recipe.trained)), flush=True)
    context.spend(wall_seconds=time.monotonic() - context.started, peak_memory_bytes=peak_memory_bytes())
