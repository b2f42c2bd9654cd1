"""The one function that every job runs, wherever it runs."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from hpcmaf.errors import HpcmafError, PlanChangedError, StageError, one_line, system_error
from hpcmaf.plan import Stage
from hpcmaf.profile import load_profile
from hpcmaf.publish import write_json
from hpcmaf.rundir import RunDir
from hpcmaf.stages.context import TaskContext

# Imported only in the job that needs them: merging must not load torch.
_STAGES = {
    "debate": ("hpcmaf.stages.debate", "run_debate_shard"),
    "eval": ("hpcmaf.stages.debate", "run_debate_shard"),
    "merge": ("hpcmaf.stages.merge", "run_merge"),
    "finetune": ("hpcmaf.stages.finetune", "run_agent_finetune"),
    "score": ("hpcmaf.stages.score", "run_score"),
}


def run_task(root: str, stage_id: str, task: str, attempt: str, plan_sha256: str) -> None:
    """Run one task of a run, from its inputs to its marker.

    Doing a finished task again is nothing: it returns at once.

    Parameters
    ----------
    root
        The run directory.
    stage_id, task
        Such as ``"it01/debate"``, ``"00003"``.
    attempt
        Folder for this attempt's logs; a failure leaves ``cause.json`` there.
    plan_sha256
        Of the plan the task was submitted under.

    Raises
    ------
    HpcmafError
        With one line that says what is wrong.
    """
    run, folder = RunDir(Path(root)), Path(attempt)
    try:
        plan = run.load_plan()
        if plan.sha256 != plan_sha256:
            raise PlanChangedError(f"{run.plan}: not the plan this task was submitted under; submit again")
        stage = plan.stage(stage_id)
        with run.claim(stage, task):
            if run.done(stage, task):
                print(f"{stage_id} {task}: done already", flush=True)
                return
            _check_inputs(run, plan.stages, stage)
            profile = load_profile(str(run.profile))
            context = TaskContext(run, plan, profile, stage, task, folder)
            _function(stage.kind)(context)
            run.write_marker(stage, task, context.outputs, context.ledger)
            for clean in context.afterwards:
                clean()
    except BaseException as error:
        told = system_error(error) if isinstance(error, OSError | MemoryError) else error
        _leave_cause(folder, told, error)
        if isinstance(told, HpcmafError):
            # What the user is told, above the traceback that submitit logs.
            print(f"error: {one_line(str(told))}", file=sys.stderr, flush=True)
        raise


def _function(kind: str) -> Callable[[TaskContext], None]:
    module, name = _STAGES[kind]
    return getattr(import_module(module), name)


def _check_inputs(run: RunDir, stages: tuple[Stage, ...], stage: Stage) -> None:
    for needed in stages:
        if needed.id in stage.after:
            missing = [task for task in needed.tasks if not run.done(needed, task)]
            if missing:
                raise StageError(f"{stage.id}: needs {needed.id} {missing[0]}, which is not done; run it first")


def _leave_cause(folder: Path, told: BaseException, error: BaseException) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    expected = isinstance(told, HpcmafError)
    message = str(told) if expected else f"{type(told).__name__}: {told}"
    cause = {
        "type": type(told).__name__,
        # Libraries explain themselves over many lines; the log has them.
        "message": " ".join(message.split()),
        "expected": expected,
        "exit_code": told.exit_code if isinstance(told, HpcmafError) else 1,
        "pid": os.getpid(),
        "traceback": "" if told is error and expected else "".join(traceback.format_exception(error)),
    }
    write_json(folder / "cause.json", cause)


def read_cause(folder: Path) -> dict[str, object] | None:
    """Why an attempt failed; ``None`` when it left no word (it was killed)."""
    try:
        return json.loads((folder / "cause.json").read_text())
    except FileNotFoundError:
        return None
