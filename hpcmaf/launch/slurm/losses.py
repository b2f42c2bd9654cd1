"""Finding out why tasks that nobody works on any more are not done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hpcmaf.config.slurm import Slurm
from hpcmaf.jobs.resume import standing
from hpcmaf.launch.slurm.causes import Cause, find_cause
from hpcmaf.launch.slurm.commands import AccountingAbsentError, Job, accounting
from hpcmaf.launch.slurm.snapshot import Snapshot, TaskKey
from hpcmaf.launch.slurm.submissions import Submissions
from hpcmaf.run.attempts import all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage

# A file server may show a marker a little after its job has ended.
_MARKER_DELAYS = (1.0, 4.0, 10.0)


def find_causes(
    run: RunDir,
    snapshot: Snapshot,
    log: Submissions,
    stage: Stage,
    lost: Sequence[str],
    cluster: Slurm,
    say: Callable[[str], None],
) -> dict[str, Cause]:
    """Why each of a stage's lost tasks is not done; those that turn out to be done are left out.

    What a task left behind comes first, then what squeue still knows, then
    one sacct for the rest.
    """
    lost = _await_markers(run, snapshot, stage, lost)
    ended = dict(snapshot.ended)
    keys = [(stage.id, task) for task in lost if not _left_word(run, stage, task)]
    if unknown := [key for key in keys if key not in ended]:
        try:
            ended |= accounted(log, unknown, seconds=cluster.command_seconds)
        except AccountingAbsentError as error:
            say(f"no accounting ({error}); going by what the tasks left behind")
    causes = {}
    for task in lost:
        submission = log.latest[stage.id, task][0]
        attempts = all_attempts(run.attempts(stage, task))
        own = [attempt for attempt in attempts if attempt.facts.get("submission") == submission.name]
        job = ended.get((stage.id, task))
        causes[task] = find_cause(own[-1] if own else None, job, standing(run, stage, task))
    return causes


def _await_markers(run: RunDir, snapshot: Snapshot, stage: Stage, lost: Sequence[str]) -> list[str]:
    """Tasks still not done when the file system has had its time to show what a job finished."""

    def may_be_done(task: str) -> bool:
        job = snapshot.ended.get((stage.id, task))
        return (job is None or job.state == "COMPLETED") and not _left_word(run, stage, task)

    for delay in _MARKER_DELAYS:
        if not any(may_be_done(task) for task in lost):
            break
        time.sleep(delay)
        done = run.done_tasks(snapshot.plan)[stage.id]
        lost = [task for task in lost if task not in done]
    return list(lost)


def _left_word(run: RunDir, stage: Stage, task: str) -> bool:
    attempts = all_attempts(run.attempts(stage, task))
    return bool(attempts) and attempts[-1].cause is not None


def accounted(log: Submissions, keys: Sequence[TaskKey], *, seconds: float) -> dict[TaskKey, Job]:
    """What one sacct says of tasks whose jobs squeue no longer knows.

    Raises
    ------
    AccountingAbsentError
        There is no accounting, or it did not answer in ``seconds``.
    """
    places = {key: log.latest[key] for key in keys}
    ids = {submission.job for submission, _ in places.values() if submission.job is not None}
    if not ids:
        return {}
    jobs = accounting(sorted(ids, key=int), seconds=seconds)
    found = {(job.id, job.index or 0): job for job in jobs if not job.live}
    wanted = {key: (submission.job, index) for key, (submission, index) in places.items()}
    return {key: found[place] for key, place in wanted.items() if place in found}
