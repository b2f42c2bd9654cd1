"""How far an unfinished task is, from what it keeps to resume."""

from __future__ import annotations

from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.training.checkpoint import checkpoint_step


def resume_point(run: RunDir, stage: Stage, task: str) -> int:
    """Work that a new attempt need not repeat: it only grows while the task gets on.

    Bytes of the journal of a debate shard, optimiser steps of a finetuning
    job; 0 for tasks that keep nothing.
    """
    if stage.spec.resume is None:
        return 0
    kept = stage.spec.resume(run, stage.iteration, task)
    return kept.stat().st_size if kept.is_file() else checkpoint_step(kept)
