"""Cancelling a run: the gates first, then whatever else Slurm has of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from hpcmaf.config.profile import Profile
from hpcmaf.errors import RunBusyError, SlurmError
from hpcmaf.launch.scheduler import Stop, read_stop, write_stop
from hpcmaf.launch.slurm.commands import cancel, queue
from hpcmaf.launch.slurm.refusals import ControllerAbsentError
from hpcmaf.launch.slurm.submissions import Submissions
from hpcmaf.run.directory import RunDir

_POLL_SECONDS = 1.0


def live_jobs(run: RunDir, profile: Profile) -> dict[str, bool]:
    """Ids of what Slurm has of a run, gates first, and whether they are gates."""
    # The log is read last: whoever submits writes a name before Slurm has the job.
    jobs = [job for job in queue(seconds=profile.cluster.command_seconds) if job.live]
    log = Submissions(run.submissions)
    by_job = log.by_job()
    # By ids and, where an answer of sbatch was lost, by names.
    found = {job.id: by_job.get(job.id) or log.submissions.get(job.name) for job in jobs}
    ours = {id: submission.gate for id, submission in found.items() if submission is not None}
    return dict(sorted(ours.items(), key=lambda one: (not one[1], int(one[0]))))


def cancel_run(run: RunDir, profile: Profile, *, seconds: float, say: Callable[[str], None]) -> bool:
    """Stop the chain and cancel all of a run's jobs; returns whether there were any, once Slurm has none left.

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
        write_stop(run, Stop(reason="cancelled by 'hpcmaf cancel'", kind="cancelled"))
    deadline = time.monotonic() + seconds
    cancelled: set[str] = set()
    while True:
        try:
            ours = live_jobs(run, profile)
            # Two calls: a gate must not see the rest of its stage end, and take it for a failure.
            for kind in (True, False):
                if ids := [id for id, gate in ours.items() if gate is kind and id not in cancelled]:
                    cancel(ids, seconds=profile.cluster.command_seconds)
                    cancelled.update(ids)
                    say(f"cancelled {len(ids)} {'gate' if kind else 'job'}(s): {', '.join(ids)}")
            if not ours:
                # Nor is a gate, or a submit, between asking Slurm and having asked.
                with run.drive():
                    return bool(cancelled)
            left = f"{len(ours)} job(s) have not ended: {', '.join(ours)}"
        except (RunBusyError, ControllerAbsentError) as error:
            left = str(error)
        if time.monotonic() > deadline:
            raise SlurmError(f"{run.root}: after {seconds:g} s {left}; give the same command again")
        time.sleep(_POLL_SECONDS)
