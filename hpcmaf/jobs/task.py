"""What every job runs, wherever it runs: tasks of one stage, one after another, each from its inputs to its marker."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

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
from hpcmaf.jobs.context import TaskContext, resume_point
from hpcmaf.run.attempts import all_attempts, begin, leave_cause, read
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.training.launch import Workers
from hpcmaf.training.multinode import NodeRank
from hpcmaf.training.stop import StopFlag

POLL_SECONDS = 0.5
# For node 0 to publish what all have trained; srun ends whoever is left soon after the first task's end.
_PUBLISHING_SECONDS = 900.0


def run_tasks(
    run: RunDir,
    stage: Stage,
    tasks: Sequence[str],
    plan_identity: str,
    *,
    facts: Mapping[str, Any],
    stop: StopFlag | None = None,
    place: Callable[[int], NodeRank | None] = lambda position: None,
    busy: Callable[[str], bool] = lambda task: True,
    **shared: Any,
) -> Exception | None:
    """Run every task, even if one fails; agents share the processes that finetune them.

    Parameters
    ----------
    facts
        Kept with every attempt, beside node, time and how far the task was.
    place
        This node among those of the job, from a task's position.
    busy
        Called with a task that another process works on; whether to try it all the same.
    **shared
        What the tasks have in common, see :func:`run_task`.

    Returns
    -------
    Exception, optional
        The first failure; its line has been printed.
    """
    stop, failure = stop or StopFlag(), None
    several = stage.spec.fan_out == "agent" and len(tasks) > 1
    with Workers() if several else nullcontext() as workers:
        for position, task in enumerate(tasks):
            if stop.requested:
                break
            if run.done(stage, task):
                print(f"{stage.id} {task}: done already", flush=True)
                continue
            try:
                node = place(position) if stage.spec.fan_out == "agent" else None
                if node is not None and node.rank > 0:
                    join_task(run, stage, task, node, stop)
                elif not run.claimed(stage, task) or busy(task):
                    print(f"{stage.id} {task}: begins", flush=True)
                    own = {"node": _node(), "started": time.time(), "progress": resume_point(run, stage, task)}
                    own |= {"meeting": node.run_id} if node else {}
                    attempt = begin(run.attempts(stage, task), own | dict(facts))
                    shared |= {"stop": stop, "place": node, "workers": workers}
                    run_task(run, stage, task, attempt, plan_identity, **shared)
            except Exception as error:
                failure = failure or error
    return failure


def run_task(run: RunDir, stage: Stage, task: str, attempt: Path, plan_identity: str, **shared: Any) -> None:
    """Run one task of a run, from its inputs to its marker.

    Doing a finished task again is nothing: it returns at once.

    Parameters
    ----------
    attempt
        Folder for this attempt's logs; a failure leaves ``cause.json`` there.
    plan_identity
        Of the plan the task was submitted under.
    **shared
        What the job's tasks have in common, see :class:`~hpcmaf.jobs.context.TaskContext`.

    Raises
    ------
    HpcmafError
        With one line that says what is wrong.
    """
    try:
        plan = run.load_plan()
        if plan.identity != plan_identity:
            raise PlanChangedError(f"{run.plan}: not the plan this task was submitted under; submit again")
        with run.claim(stage, task):
            if run.done(stage, task):
                print(f"{stage.id} {task}: done already", flush=True)
                return
            _check_inputs(run, plan, stage)
            profile = load_profile(str(run.profile))
            context = TaskContext(run, plan, profile, stage, task, attempt, **shared)
            resolve_name(stage.spec.function)(context)
            run.write_marker(stage, task, stage.spec.outputs(run, stage.iteration, task), context.ledger)
            for clean in context.afterwards:
                clean()
    except BaseException as error:
        reported = system_error(error) if isinstance(error, OSError | MemoryError) else error
        # Empty where it may point at another of the job's nodes.
        node = getattr(error, "node", None) or ("" if shared.get("place") else _node())
        _leave_cause(attempt, reported, error, node)
        if isinstance(reported, HpcmafError):
            # What the user reads, above the traceback that submitit logs.
            print(f"error: {one_line(str(reported))}", file=sys.stderr, flush=True)
        raise


def join_task(run: RunDir, stage: Stage, task: str, place: NodeRank, stop: StopFlag) -> None:
    """Take part in a task that node 0 of this job runs; returns when it is over there, or was done already.

    Raises
    ------
    HpcmafError
        What :func:`hpcmaf.training.job.join_finetune` raises.
    """
    from hpcmaf.training.job import join_finetune

    def of_this_job() -> Path | None:
        attempts = reversed(all_attempts(run.attempts(stage, task)))
        return next((one.folder for one in attempts if one.facts.get("meeting") == place.run_id), None)

    # Patient: node 0 may be waiting for another copy of the task to end.
    # Slurm ends this process soon after node 0's has ended.
    while (logs := of_this_job()) is None:
        if run.done(stage, task) or stop.requested:
            return
        time.sleep(POLL_SECONDS)
    try:
        join_finetune(place.work(logs), place, stop=stop)
    except HpcmafError as error:
        print(f"error: node {place.rank}: {one_line(str(error))}", file=sys.stderr, flush=True)
        raise
    end = time.monotonic() + _PUBLISHING_SECONDS
    while not run.done(stage, task) and read(logs).cause is None and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _check_inputs(run: RunDir, plan: Plan, stage: Stage) -> None:
    for needed in map(plan.stage, stage.after):
        for task in needed.tasks:
            if not run.done(needed, task):
                raise MissingInputError(f"{stage.id}: needs {needed.id} {task}, which is not done; run it first")


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _leave_cause(folder: Path, reported: BaseException, error: BaseException, node: str) -> None:
    """Write down what is known of a failure, for whoever decides on another attempt."""
    expected = isinstance(reported, HpcmafError)
    message = str(reported) if expected else f"{type(reported).__name__}: {reported}"
    cause = {
        "type": type(reported).__name__,
        # Libraries explain themselves over many lines; the log has them.
        "message": " ".join(message.split()),
        "kind": failure_kind(error),
        "errno": errno_of(error),
        "node": node,
        "traceback": "" if reported is error and expected else "".join(traceback.format_exception(error)),
    }
    try:
        leave_cause(folder, cause)
    except OSError as second:
        print(f"error: {folder}: the cause cannot be written ({second})", file=sys.stderr, flush=True)
