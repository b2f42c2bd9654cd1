"""The one function that every job runs, wherever it runs."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from hpcmaf.config.profile import load_profile
from hpcmaf.errors import (
    HpcmafError,
    MissingInputError,
    PlanChangedError,
    errno_of,
    failure_kind,
    one_line,
    system_error,
)
from hpcmaf.jobs.context import TaskContext
from hpcmaf.jobs.resume import standing
from hpcmaf.run.attempts import leave_cause
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.training.launch import Workers
from hpcmaf.training.nodes import NodePlace
from hpcmaf.training.stopping import StopFlag

# Imported only in the job that needs them: merging must not load torch.
_STAGES = {
    "debate": ("hpcmaf.jobs.debate", "run_debate_shard"),
    "eval": ("hpcmaf.jobs.debate", "run_debate_shard"),
    "merge": ("hpcmaf.jobs.merge", "run_merge"),
    "finetune": ("hpcmaf.jobs.finetune", "run_agent_finetune"),
    "score": ("hpcmaf.jobs.score", "run_score"),
}


def run_task(
    root: str,
    stage_id: str,
    task: str,
    attempt: str,
    plan_identity: str,
    *,
    halvings: int = 0,
    stop: StopFlag | None = None,
    place: NodePlace | None = None,
    workers: Workers | None = None,
) -> None:
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
    plan_identity
        Of the plan the task was submitted under.
    halvings
        How often batches are to be halved, because memory ran out before.
    stop
        Set from outside, by a signal, to make the task save and end.
    place
        This node's among several that do the task together.
    workers
        Of a job that does several tasks of ``finetune``: the processes they
        share.

    Raises
    ------
    HpcmafError
        With one line that says what is wrong.
    """
    run, folder, stage = RunDir(Path(root)), Path(attempt), None
    try:
        plan = run.load_plan()
        if plan.identity != plan_identity:
            raise PlanChangedError(f"{run.plan}: not the plan this task was submitted under; submit again")
        stage = plan.stage(stage_id)
        with run.claim(stage, task):
            if run.done(stage, task):
                print(f"{stage_id} {task}: done already", flush=True)
                return
            _check_inputs(run, plan.stages, stage)
            profile = load_profile(str(run.profile))
            context = TaskContext(run, plan, profile, stage, task, folder, halvings, stop or StopFlag(), place, workers)
            _function(stage.kind)(context)
            run.write_marker(stage, task, context.outputs, context.ledger)
            for clean in context.afterwards:
                clean()
    except BaseException as error:
        told = system_error(error) if isinstance(error, OSError | MemoryError) else error
        node = getattr(error, "node", None) or ("" if place else _node())
        _leave_cause(folder, told, error, node, lambda: standing(run, stage, task) if stage else 0)
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
                raise MissingInputError(f"{stage.id}: needs {needed.id} {missing[0]}, which is not done; run it first")


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _leave_cause(
    folder: Path, told: BaseException, error: BaseException, node: str = "", step: Callable[[], int] = lambda: 0
) -> None:
    """Write down what is known of a failure, for whoever decides on another attempt.

    Parameters
    ----------
    node
        The one that it points at; empty when that may be another of the job's.
    step
        How far the task is.
    """
    expected = isinstance(told, HpcmafError)
    message = str(told) if expected else f"{type(told).__name__}: {told}"
    cause = {
        "type": type(told).__name__,
        # Libraries explain themselves over many lines; the log has them.
        "message": " ".join(message.split()),
        "expected": expected,
        "exit_code": told.exit_code if isinstance(told, HpcmafError) else 1,
        "kind": failure_kind(error),
        "errno": errno_of(error),
        "node": node,
        "pid": os.getpid(),
        "traceback": "" if told is error and expected else "".join(traceback.format_exception(error)),
    }
    try:
        # What made the task fail may still be in the way.
        with suppress(OSError):
            cause["step"] = step()
        leave_cause(folder, cause)
    except OSError as second:
        print(f"error: {folder}: the cause cannot be written ({second})", file=sys.stderr, flush=True)
