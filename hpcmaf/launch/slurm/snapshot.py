"""One look at a run on a cluster: one squeue, the markers, and one sacct for what is gone from the queue.

What the look finds held back is let go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hpcmaf.config.slurm import Slurm
from hpcmaf.errors import SlurmError
from hpcmaf.launch.scheduler import States
from hpcmaf.launch.slurm.commands import Job, accounting, control
from hpcmaf.launch.slurm.submissions import Submission, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, TaskKey


@dataclass
class Snapshot(States):
    """States as markers, the log and squeue have them.

    Attributes
    ----------
    ended
        Slurm's last word on the jobs of other tasks, where it has one.
    gates
        Gates that are queued or running.
    jobs
        All of the run's that Slurm knows.
    """

    ended: dict[TaskKey, Job] = field(default_factory=dict)
    gates: list[Submission] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    @classmethod
    def take(cls, run: RunDir, plan: Plan, log: Submissions, jobs: Sequence[Job]) -> Snapshot:
        """Bring markers, the log of submissions and the queue together.

        Submissions whose answer was lost are found by their name. A gate that asks is no gate to wait for.

        Parameters
        ----------
        jobs
            From squeue, asked *before*: a task that ended in between has its marker by now.
        """
        for submission in log.unconfirmed():
            if ids := {job.id for job in jobs if job.name == submission.name}:
                log.confirm(submission.name, min(ids, key=int))
        snapshot = cls(plan, run.done_tasks(plan))
        by_job = log.by_job()
        for job in jobs:
            submission = by_job.get(job.id)
            if submission is None or job.id == os.environ.get("SLURM_JOB_ID") or submission.stage not in snapshot.done:
                continue
            snapshot.jobs.append(job)
            if submission.gate:
                if job.live and submission not in snapshot.gates:
                    snapshot.gates.append(submission)
                continue
            if (job.index or 0) >= len(submission.elements):
                continue
            for key in submission.keys(job.index or 0):
                stage, task = key
                if task in snapshot.done[stage]:
                    continue
                if job.live:
                    snapshot.in_flight[key] = job
                elif log.latest.get(key, (None, 0))[0] is submission:
                    snapshot.ended[key] = job
        return snapshot


def ended_jobs(
    snapshot: Snapshot, log: Submissions, keys: Sequence[TaskKey], *, seconds: float, say: Callable[[str], None]
) -> dict[TaskKey, Job]:
    """Slurm's last word on the jobs of tasks: what squeue still knows, and one sacct for the rest, where it answers."""
    places = {key: log.latest[key] for key in keys if key not in snapshot.ended}
    ids = {submission.job for submission, _ in places.values() if submission.job is not None}
    try:
        jobs = accounting(sorted(ids, key=int), seconds=seconds) if ids else []
    except SlurmError as error:
        say(f"{error}; causes come from what the tasks left")
        jobs = []
    # A controller that forgot a job may give its id once more: another submission's job is not this one.
    known = {(job.id, job.index or 0, job.name): job for job in jobs if not job.live}
    named = {place: job for place, job in known.items() if job.name in log.submissions}
    renamed = {place[:2]: job for place, job in known.items() if place not in named}
    found = {
        key: named.get((sent.job, index, sent.name)) or renamed.get((sent.job, index))
        for key, (sent, index) in places.items()
    }
    return snapshot.ended | {key: job for key, job in found.items() if job is not None}


def release(snapshot: Snapshot, log: Submissions, cluster: Slurm, say: Callable[[str], None]) -> None:
    """Release jobs that Slurm holds since their launch failed, and let those go anywhere that have no node left.

    A job that was released before is kept off the node where its launch failed again.
    """
    held = [job.full_id for job in snapshot.jobs if job.held]
    fenced = [job.full_id for job in snapshot.jobs if job.live and job.reason == "BadConstraints"]
    seconds, last = cluster.command_seconds, {}
    if again := {job.partition("_")[0] for job in held if log.released[job]}:
        try:
            last = {job.full_id: job.nodes for job in accounting(sorted(again), seconds=seconds) if job.nodes}
        except SlurmError as error:
            say(f"no accounting ({error}); where launches failed is not known")
    for job in [*held, *fenced]:
        node = last.get(job, "") if log.released[job] else ""
        try:
            if node or job in fenced:
                nodes = ",".join(filter(None, [*cluster.exclude, node]))
                control("update", f"jobid={job}", f"ExcNodeList={nodes}", seconds=seconds)
            if job in held:
                control("release", job, seconds=seconds)
                log.release(job)
            why = "could not be launched; released" if job in held else "no node is left for it"
            say(f"{job}: {why}, to go anywhere{f' but to {node}' if node else ''}")
        except SlurmError as error:  # it has ended meanwhile; the next look tells
            say(str(error))
