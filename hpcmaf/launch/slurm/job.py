"""What srun starts: ``python -m hpcmaf.launch.slurm.job FOLDER``, FOLDER being a submission's.

What there is to do stands in the log of submissions, where it was written before sbatch was called: no job ever starts
without its work, and a requeued one finds it again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import FrameType
from typing import Any

import submitit

from hpcmaf.config.profile import load_profile
from hpcmaf.errors import StopRequested
from hpcmaf.jobs.context import resume_point
from hpcmaf.jobs.task import run_tasks
from hpcmaf.launch.slurm.causes import attempt_of
from hpcmaf.launch.slurm.commands import requeue_this_job
from hpcmaf.launch.slurm.gate import pass_gate
from hpcmaf.launch.slurm.nodes import place_of_job
from hpcmaf.launch.slurm.submissions import Submission, Submissions
from hpcmaf.run.attempts import leave_cause
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.training.stop import StopFlag, handle_signals

# Another node wrote the log, and this one may see it a little later.
_LOG_SECONDS = 60.0
# A node whose daemon died keeps its tasks for a while, beside the new copy.
_BUSY_SECONDS = 1800.0
# Slurm ends a job long before, once it has sent its signal.
_DEATH_SECONDS = 900.0
# Slurm sends the signal up to a minute earlier than asked for.
_SIGNAL_SLACK = 90.0


def main(folder: Path) -> None:
    """Do this job's part of a submission."""
    os.environ["SUBMITIT_FOLDER"] = str(folder)
    run = RunDir(folder.parents[2])
    submission = _find(run, folder.name)
    if submission.gate:
        pass_gate(run)
    else:
        _obey_signals(run, submission, int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")))


def _find(run: RunDir, name: str) -> Submission:
    deadline = time.monotonic() + _LOG_SECONDS
    while True:
        try:
            return Submissions(run.submissions).submissions[name]
        except (OSError, KeyError) as error:
            if time.monotonic() > deadline:
                raise
            print(f"{run.submissions}: nothing of {name} yet ({error}); waiting", flush=True)
        with suppress(OSError):
            os.listdir(run.root)  # has NFS ask the server again
        time.sleep(1)


def run_element(run: RunDir, submission: Submission, index: int = 0, **shared: Any) -> Exception | None:
    """Do every task of one element of a submission, even if one fails; returns the first failure.

    Parameters
    ----------
    **shared
        See :func:`hpcmaf.jobs.task.run_tasks`.
    """
    plan, keys = run.load_plan(), submission.keys(index)
    environment = submitit.JobEnvironment()
    facts: dict[str, Any] = {"submission": submission.name, "job": environment.job_id}
    facts |= {"nodes": environment.num_nodes, "log": str(environment.paths.stderr)}
    failure: Exception | None = None
    for id, group in groupby(keys, key=itemgetter(0)):
        stage, tasks = plan.stage(id), [task for _, task in group]
        shared |= {"busy": partial(_wait_for_other_copies, run, stage), "keep_servers": id != keys[-1][0]}
        shared |= {"facts": facts, "halvings": submission.halvings}
        failed = run_tasks(run, stage, tasks, submission.plan or plan.identity, **shared)
        failure = failure or failed
    return failure


def _obey_signals(run: RunDir, submission: Submission, index: int) -> None:
    """Run an element until Slurm wants its job to end."""
    plan, stop = run.load_plan(), _Stop()
    work = [(plan.stage(id), task) for id, task in submission.keys(index)]
    before = [one for one in work if not run.done(*one)]
    handle_signals(stop.take)
    failure = run_element(run, submission, index, stop=stop, place=place_of_job)
    handle_signals(signal.SIG_IGN)  # a second one must not interrupt the way out
    left = [one for one in work if not run.done(*one)]
    # Every task has saved what it has and let go of its claim.
    if stop.requested and left:
        # A task that began behind others, which are done, has not had all of the time.
        stuck = isinstance(failure, StopRequested) and left == before and _stuck(run, *left[0], submission, stop)
        if isinstance(failure, StopRequested | None) and not stuck:
            stop.leave()
        failure = failure or StopRequested(f"{submission.stage}: stopped on request before {work[-1][1]} was done")
    if failure is not None:
        raise failure


def _stuck(run: RunDir, stage: Stage, task: str, submission: Submission, stop: _Stop) -> bool:
    """Whether a task would meet its time limit for ever; its cause says that this is what it met."""
    elapsed, attempt = time.monotonic() - stop.began, attempt_of(run, stage, task, submission.name)
    warning = min(load_profile(str(run.profile)).cluster.signal_seconds, 30 * submission.minutes)
    due = 60 * submission.minutes - warning - _SIGNAL_SLACK
    if stop.number != signal.SIGUSR2 or not submission.minutes or elapsed < due:
        return False
    if attempt is None or resume_point(run, stage, task) > attempt.facts["progress"]:
        return False
    cause = {"type": "TimeLimit", "message": f"reached its time limit of {submission.minutes} minutes"}
    leave_cause(attempt.folder, {**(attempt.cause or {}), **cause})
    return True


class _Stop(StopFlag):
    """Raised by the scheduler's signals: the task comes to a boundary where nothing is lost, and then the job ends."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()
        self.number: int | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        print(f"{signal.Signals(number).name}: coming to a stop", file=sys.stderr, flush=True)
        # Preemption sends SIGTERM, and where Slurm is told so SIGUSR2 as well; upon that one a job requeues itself.
        if self.number != signal.SIGUSR2:
            self.number = number
        self.request()

    def leave(self) -> None:
        """End this job the way its signal asks for; returns only where that fails."""
        if self.number == signal.SIGTERM or submitit.JobEnvironment().global_rank > 0:
            # Until Slurm kills it: a job that ends by itself after SIGTERM has ended in Slurm's eyes, and is not put
            # back into the queue when it was to be preempted. Of several nodes, node 0 requeues for all.
            time.sleep(_DEATH_SECONDS)
        requeue_this_job()  # finished tasks return at once in the next attempt


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
