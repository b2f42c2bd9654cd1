"""Cancelling a run: the gates first, then whatever else Slurm has of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hpcmaf.config.profile import Profile
from hpcmaf.errors import RunBusyError, SlurmError
from hpcmaf.launch.slurm.commands import ControllerAbsentError, Job, cancel, queue
from hpcmaf.launch.slurm.submissions import Submissions, read_stop, write_stop
from hpcmaf.run.directory import RunDir

REASON = "cancelled by 'hpcmaf cancel'"
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Ours:
    """A run's jobs that are queued, running or ending; ids in order."""

    gates: list[str]
    others: list[str]

    @property
    def ids(self) -> list[str]:
        """All of them, gates first."""
        return [*self.gates, *self.others]


def live_jobs(run: RunDir, profile: Profile) -> Ours:
    """What Slurm has of a run, told by ids and, where an answer of sbatch was lost, by names."""
    # The log is read last: whoever submits writes a name before Slurm has the job.
    jobs: list[Job] = [job for job in queue(seconds=profile.cluster.command_seconds) if job.live]
    log = Submissions(run.submissions)
    by_job = log.by_job()
    found: dict[str, bool] = {}
    for job in jobs:
        submission = by_job.get(job.id) or log.submissions.get(job.name)
        if submission is not None:
            found[job.id] = submission.gate
    ids = sorted(found, key=int)
    return Ours([id for id in ids if found[id]], [id for id in ids if not found[id]])


def cancel_run(run: RunDir, profile: Profile, *, seconds: float, say: Callable[[str], None]) -> list[str]:
    """Stop the chain and cancel all of a run's jobs; returns their ids once Slurm has none left.

    The reason file comes first, so that a gate at work submits nothing more.

    Parameters
    ----------
    seconds
        How long to wait for jobs to end.

    Raises
    ------
    SlurmError
        Slurm does not answer, or some jobs had not ended by then.
    """
    if read_stop(run) is None:
        write_stop(run, REASON, kind="cancelled")
    deadline = time.monotonic() + seconds
    cancelled: dict[str, None] = {}
    while True:
        try:
            ours = live_jobs(run, profile)
            new = Ours(*([id for id in ids if id not in cancelled] for ids in (ours.gates, ours.others)))
            # Two calls: a gate must not see the rest of its stage end, and take it for a failure.
            for ids in filter(None, (new.gates, new.others)):
                cancel(ids, seconds=profile.cluster.command_seconds)
                cancelled |= dict.fromkeys(ids)
                say(f"cancelled {len(ids)} {'gate' if ids is new.gates else 'job'}(s): {', '.join(ids)}")
            if not ours.ids and _nobody_submits(run):
                return list(cancelled)
            left = f"{len(ours.ids)} job(s) have not ended: {', '.join(ours.ids)}" if ours.ids else "somebody submits"
        except ControllerAbsentError as error:
            left = str(error)
        if time.monotonic() > deadline:
            raise SlurmError(f"{run.root}: after {seconds:g} s {left}; give the same command again")
        time.sleep(_POLL_SECONDS)


def _nobody_submits(run: RunDir) -> bool:
    """Whether no gate and no submit is between asking Slurm and having asked."""
    try:
        with run.drive():
            return True
    except RunBusyError:
        return False
