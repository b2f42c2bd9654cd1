"""What a Slurm job runs: its tasks, one after another, and how it stops on a signal."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, Self

import submitit

from hpcmaf.errors import SlurmError, StopRequested, one_line
from hpcmaf.jobs.context import resume_point
from hpcmaf.jobs.task import run_tasks
from hpcmaf.launch.slurm.causes import attempt_of
from hpcmaf.launch.slurm.commands import control
from hpcmaf.launch.slurm.nodes import place_of_job
from hpcmaf.launch.slurm.submissions import Element, task_key
from hpcmaf.run.attempts import leave_cause
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.training.stop import SIGNALS, StopFlag, handle_signals

# A node whose daemon died keeps its tasks for a while, beside the new copy.
_BUSY_SECONDS = 1800.0
# Slurm ends a job long before, once it has sent its signal.
_DEATH_SECONDS = 900.0
# Slurm sends the signal up to a minute earlier than asked for.
_SIGNAL_SLACK = 90.0


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
    """

    root: str
    stage: str
    submission: str
    identity: str
    minutes: int
    signal_seconds: int
    halvings: int = 0

    def __call__(self, tasks: Element) -> None:
        """Do every task, even if one fails; the first failure is raised in the end."""
        run = RunDir(Path(self.root))
        plan, keys = run.load_plan(), [task_key(self.stage, name) for name in tasks]
        work = [(plan.stage(id), task) for id, task in keys]
        before = [one for one in work if not run.done(*one)]
        environment = submitit.JobEnvironment()
        facts: dict[str, Any] = {"submission": self.submission, "job": environment.job_id}
        facts |= {"nodes": environment.num_nodes, "log": str(environment.paths.stderr)}

        failure: Exception | None = None
        with _Signals() as signals:
            for stage, group in groupby(work, key=lambda one: one[0]):
                failed = run_tasks(
                    run, stage, [task for _, task in group], self.identity,
                    facts=facts, stop=signals.stop, halvings=self.halvings, place=place_of_job,
                    busy=partial(_wait_for_other_copies, run, stage), keep_servers=stage != work[-1][0],
                )  # fmt: skip
                failure = failure or failed
        left = [one for one in work if not run.done(*one)]
        # Every task has saved what it has and let go of its claim.
        if signals.stop.requested and left:
            # A task that began behind others, which are done, has not had all of the time.
            stuck = isinstance(failure, StopRequested) and left == before and self._stuck(run, *left[0], signals)
            if isinstance(failure, StopRequested | None) and not stuck:
                signals.leave()
            failure = failure or StopRequested(f"{self.stage}: stopped on request before {tasks[-1]} was done")
        if failure is not None:
            raise failure

    def _stuck(self, run: RunDir, stage: Stage, task: str, signals: _Signals) -> bool:
        """Whether a task would meet its time limit for ever; its cause says that this is what it met."""
        elapsed, attempt = time.monotonic() - signals.began, attempt_of(run, stage, task, self.submission)
        if signals.number != signal.SIGUSR2 or elapsed < 60 * self.minutes - self.signal_seconds - _SIGNAL_SLACK:
            return False
        if attempt is None or resume_point(run, stage, task) > attempt.facts["progress"]:
            return False
        cause = {"type": "TimeLimit", "message": f"reached its time limit of {self.minutes} minutes"}
        leave_cause(attempt.folder, {**(attempt.cause or {}), **cause})
        return True


class _Signals:
    """Within the block, the scheduler's signals raise a flag instead of requeueing at once.

    submitit's own handler requeues wherever the program happens to be. Here the task first comes to a boundary where
    nothing is lost.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.stop = StopFlag()
        self.number: int | None = None

    def __enter__(self) -> Self:
        handle_signals(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        # Deaf from here on: a second signal must not interrupt the way out.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _take(self, number: int, frame: FrameType | None) -> None:
        print(f"{signal.Signals(number).name}: coming to a stop", file=sys.stderr, flush=True)
        # Preemption sends SIGTERM, and where Slurm is told so SIGUSR2 as well; upon that one a job requeues itself.
        if self.number != signal.SIGUSR2:
            self.number = number
        self.stop.request()

    def leave(self) -> None:
        """End this job the way its signal asks for; returns only where that fails."""
        job = submitit.JobEnvironment()
        if self.number == signal.SIGTERM or job.global_rank > 0:
            # Until Slurm kills it: a job that ends by itself after SIGTERM has ended in Slurm's eyes, and is not put
            # back into the queue when it was to be preempted. Of several nodes, node 0 requeues for all.
            time.sleep(_DEATH_SECONDS)
        try:
            control("requeue", job.job_id, seconds=60)
        except SlurmError as error:
            print(f"{one_line(str(error))}; leaving it to the gate", file=sys.stderr, flush=True)
        else:
            sys.exit(-1)  # finished tasks return at once in the next attempt


def _wait_for_other_copies(run: RunDir, stage: Stage, task: str) -> bool:
    """Wait, for a while; the task is tried all the same."""
    deadline = time.monotonic() + _BUSY_SECONDS
    said = False
    while run.claimed(stage, task) and time.monotonic() < deadline:
        if not said:
            print(f"{stage.id} {task}: another copy of this task is still at work; waiting for it", flush=True)
            said = True
        time.sleep(2)
    return True
