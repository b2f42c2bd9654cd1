"""Stage ``score``: what iteration t came to, and what it cost."""

from __future__ import annotations

import time

from hpcmaf.debate.health import evaluated, health_report, scarce, selected
from hpcmaf.evaluation.accuracy import pseudo_label_accuracy, score
from hpcmaf.evaluation.alarm import best, readings, rung, signals
from hpcmaf.files.publish import write_json
from hpcmaf.jobs.context import TaskContext, peak_memory_bytes
from hpcmaf.jobs.merge import merge_shards
from hpcmaf.store.reader import Store


def run_score(context: TaskContext) -> None:
    """Write ``metrics.json`` and ``ledger.json`` of an iteration."""
    t, recipe, run = context.iteration, context.recipe, context.run
    of_iteration = {"seed": recipe.seed, "iteration": t}
    merge_shards(context, "eval")
    with Store(run.store(t, "eval")) as store:
        debates, task = store.transcripts(gold=True), recipe.evaluation.name
        metrics = score(debates, method=recipe.method, task=task, **of_iteration)
        write_json(run.signals(t), signals(store.transcripts(), **of_iteration))
    if recipe.evaluate_on is not None:
        metrics["trained_on"] = recipe.task.name
    if t > 0:
        if not context.method.reads_gold:
            with Store(run.store(t, "debate")) as store:
                metrics["pseudo_labels"] = pseudo_label_accuracy(store.transcripts(gold=True), **of_iteration)
        learned = run.learned(t)
        metrics["selection"] = learned | {"scarce": scarce(selected(learned, context.recipe.trained))}
    write_json(run.metrics(t), metrics)
    print(health_report(f"iteration {t}, evaluation", evaluated(metrics)), flush=True)
    # Iterations of an earlier version left no signals to begin with.
    if recipe.early_stop and (found := readings(run)) and (rung(found) or t == recipe.iterations):
        write_json(run.ended, {"iteration": t, "kept": best(found), "alarm": found[-1].alarm})
    context.spend(wall_seconds=time.monotonic() - context.started, peak_memory_bytes=peak_memory_bytes())
    rows = [
        row
        for stage in context.plan.stages
        if stage.iteration == t and stage.kind != "score"
        for task in stage.tasks
        for row in run.read_marker(stage, task)["ledger"]
    ]
    write_json(run.ledger(t), {"schema": "hpcmaf-ledger/1", "rows": rows + context.ledger})
