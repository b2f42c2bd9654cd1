"""The nodes of one finetuning job: who is first, where they meet, how the others find it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import submitit

from hpcmaf.attempts import all_attempts
from hpcmaf.plan import Stage
from hpcmaf.rundir import RunDir
from hpcmaf.training.nodes import NodePlace
from hpcmaf.training.stopping import StopFlag

POLL_SECONDS = 0.5


def restarts() -> int:
    """How often Slurm has requeued this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def place_of_job(position: int = 0) -> NodePlace | None:
    """This process's node among those of its job; ``None`` when it has but one.

    Which attempt it is goes into the rendezvous' name, so that a requeued job
    does not meet its past.

    Parameters
    ----------
    position
        Of the task among those that the job works off one after another.
    """
    environment = submitit.JobEnvironment()
    if environment.num_nodes == 1:
        return None
    hosts = environment.hostnames
    return NodePlace(
        rank=environment.node,
        nodes=environment.num_nodes,
        host=hosts[0],
        run_id=f"{environment.job_id}-{restarts()}-{position}",
        address=hosts[environment.node],
    )


def lend(run: RunDir, stage: Stage, task: str, place: NodePlace, stop: StopFlag) -> None:
    """Take part in a task that node 0 of this job runs; returns when it is over, or was done already.

    Raises
    ------
    HpcmafError
        What :func:`hpcmaf.training.job.join_finetune` raises.
    """
    from hpcmaf.training.job import join_finetune

    # Patient: node 0 may be waiting for another copy of the task to end.
    # Slurm ends this process soon after node 0's has ended.
    while (logs := _attempt_of_this_job(run, stage, task)) is None:
        if run.done(stage, task) or stop.requested:
            return
        time.sleep(POLL_SECONDS)
    join_finetune(place.work(logs), place, stop=stop)


def _attempt_of_this_job(run: RunDir, stage: Stage, task: str) -> Path | None:
    job = submitit.JobEnvironment().job_id
    for attempt in reversed(all_attempts(run.attempts(stage, task))):
        if attempt.facts.get("job") == job and attempt.facts.get("restarts") == restarts():
            return attempt.folder
    return None
