"""How far an unfinished task is, told from what it keeps for going on."""

from __future__ import annotations

from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.training.checkpoint import checkpoint_step


def standing(run: RunDir, stage: Stage, task: str) -> int:
    """Work that a new attempt need not repeat: it only grows while the task gets on.

    Bytes of the journal of a debate shard, optimiser steps of a finetuning
    job; 0 for tasks that keep nothing.
    """
    if stage.kind in {"debate", "eval"}:
        journal = run.journal(run.shard(stage.iteration, stage.kind, int(task)))
        return journal.stat().st_size if journal.exists() else 0
    if stage.kind == "finetune":
        return checkpoint_step(run.checkpoints(stage.iteration, task))
    return 0
