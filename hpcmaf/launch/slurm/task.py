"""What a Slurm job runs: its tasks, one after another, and how it leaves when told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

import submitit
from submitit.core.utils import DelayedSubmission, UncompletedJobError

from hpcmaf.errors import StageError, StopRequested
from hpcmaf.jobs.resume import standing
from hpcmaf.jobs.task import run_task
from hpcmaf.launch.slurm.nodes import lend, place_of_job, restarts
from hpcmaf.launch.slurm.requests import Element
from hpcmaf.run.attempts import begin, leave_cause, read_cause
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.training.launch import Workers
from hpcmaf.training.nodes import NodePlace
from hpcmaf.training.stopping import StopFlag

# A node whose daemon died keeps its tasks for a while, beside the new copy.
_BUSY_SECONDS = 1800.0
# Slurm sends the signal up to a minute earlier than asked for.
_SIGNAL_SLACK = 90.0


class Work(Protocol):
    """Signature of :func:`hpcmaf.jobs.task.run_task`."""

    def __call__(
        self,
        root: str,
        stage: str,
        task: str,
        attempt: str,
        identity: str,
        *,
        halvings: int,
        stop: StopFlag,
        place: NodePlace | None,
        workers: Workers | None,
    ) -> None: ...


@dataclass(frozen=True)
class ClusterTask:
    """Does the tasks of one element of a job array; pickled by submitit.

    Parameters
    ----------
    root
        The run directory.
    stage, submission
        Stage id, and name of the submission this belongs to.
    identity
        Of the plan it was submitted under.
    minutes, signal_seconds
        The job's time limit, and how long before it the signal comes.
    halvings
        How often batches are halved.
    work
        What does a task.
    """

    root: str
    stage: str
    submission: str
    identity: str
    minutes: int
    signal_seconds: int
    halvings: int = 0
    work: Work = field(default=run_task)

    def __call__(self, tasks: Element) -> None:
        """Do every task, even if one fails; the first failure is raised in the end.

        Agents share the processes that finetune them, which load their base once.
        """
        run = RunDir(Path(self.root))
        stage = run.load_plan().stage(self.stage)
        failure: Exception | None = None
        with _Asked() as asked, Workers() if len(tasks) > 1 else nullcontext() as workers:
            for position, task in enumerate(tasks):
                if asked.stop.requested:
                    break
                place = place_of_job(position)
                try:
                    if place is not None and place.rank > 0:
                        lend(run, stage, task, place, asked.stop)
                    else:
                        self._do(run, stage, task, asked, place, workers)
                except Exception as error:
                    failure = failure or error
        # Every task has saved what it has and let go of its claim.
        if asked.stop.requested and any(not run.done(stage, task) for task in tasks):
            if isinstance(failure, StopRequested | None):
                asked.leave()
            failure = failure or StopRequested(f"{stage.id}: told to stop before {tasks[-1]} was done")
        if failure is not None:
            raise failure

    def checkpoint(self, tasks: Element) -> DelayedSubmission:
        """What a requeued job runs: the same; finished tasks return at once."""
        return DelayedSubmission(self, tasks)

    def _do(
        self,
        run: RunDir,
        stage: Stage,
        task: str,
        asked: _Asked,
        place: NodePlace | None,
        workers: Workers | None,
    ) -> None:
        if run.done(stage, task):
            print(f"{stage.id} {task}: done already", flush=True)
            return
        _wait_for_other_copies(run, stage, task)
        before = standing(run, stage, task)
        attempt = begin(run.attempts(stage, task), self._facts(before))
        try:
            self.work(
                self.root,
                stage.id,
                task,
                str(attempt),
                self.identity,
                halvings=self.halvings,
                stop=asked.stop,
                place=place,
                workers=workers,
            )
        except StopRequested:
            if asked.number == signal.SIGUSR2:
                self._check_progress(run, stage, task, attempt, before, time.monotonic() - asked.began)
            raise

    def _facts(self, progress: int) -> dict[str, Any]:
        environment = submitit.JobEnvironment()
        return {
            "submission": self.submission,
            "job": environment.job_id,
            "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "nodes": environment.num_nodes,
            "restarts": restarts(),
            "started": time.time(),
            "progress": progress,
            "log": str(environment.paths.stderr),
        }

    def _check_progress(self, run: RunDir, stage: Stage, task: str, attempt: Path, before: int, elapsed: float) -> None:
        timed_out = elapsed >= 60 * self.minutes - self.signal_seconds - _SIGNAL_SLACK
        if not timed_out or standing(run, stage, task) > before:
            return
        message = (
            f"{stage.id} {task}: reached its time limit of {self.minutes} minutes without getting any further than "
            "the attempt before; raise the profile's minutes, or make the task smaller"
        )
        cause = {"type": "StageError", "message": message, "expected": True, "exit_code": 8, "kind": "refused"}
        leave_cause(attempt, {**(read_cause(attempt) or {}), **cause})
        raise StageError(message)


class _Asked:
    """Within the block, the scheduler's signals raise a flag instead of requeueing at once.

    submitit's own handler checkpoints and requeues wherever the program
    happens to be. Here the task first comes to a boundary where nothing is
    lost, and then that handler is called.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.stop = StopFlag()
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGUSR2, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        # Deaf from here on: a second signal must not interrupt the way out.
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _take(self, number: int, frame: FrameType | None) -> None:
        print(f"{signal.Signals(number).name}: coming to a stop", file=sys.stderr, flush=True)
        # Preemption sends SIGTERM, and where Slurm is told so SIGUSR2 as well;
        # upon that one a job requeues itself.
        if self.number != signal.SIGUSR2:
            self.number = number
        self.stop.request()

    def leave(self) -> None:
        """End this job the way its signal asks for; returns only where that fails."""
        if self.number == signal.SIGTERM or submitit.JobEnvironment().global_rank > 0:
            # Node 0 requeues for all.
            _await_death()
        handler: Callable[[int, FrameType | None], None] = self._before[signal.SIGUSR2]
        if not callable(handler):
            return
        try:
            handler(signal.SIGUSR2, None)
        except (subprocess.SubprocessError, OSError, UncompletedJobError) as error:
            print(f"scontrol requeue: {error}; leaving it to the gate", file=sys.stderr, flush=True)


def _await_death() -> None:
    """Stay until Slurm kills this job.

    A job that ends by itself after SIGTERM has ended in Slurm's eyes, and is
    not put back into the queue when it was to be preempted.
    """
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        time.sleep(1)


def _wait_for_other_copies(run: RunDir, stage: Stage, task: str) -> None:
    deadline = time.monotonic() + _BUSY_SECONDS
    said = False
    while run.claimed(stage, task) and time.monotonic() < deadline:
        if not said:
            print(f"{stage.id} {task}: another copy of this task is still at work; waiting for it", flush=True)
            said = True
        time.sleep(2)
