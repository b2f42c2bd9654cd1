"""A run on a cluster: submitted, moved on by gates, cancelled.

A gate is a job of one CPU behind a stage. It says "never" only when it knows: a task that failed for good, a request
that Slurm refuses, a defect. Whatever else comes in its way it waits out, and then goes back into the queue to begin
later.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.errors import HpcmafError, RunBusyError, SlurmError, failure_kind, one_line
from hpcmaf.launch.advance import advance, start_afresh, sweep
from hpcmaf.launch.scheduler import Stop, read_stop, write_stop
from hpcmaf.launch.slurm.commands import cancel, queue, requeue_this_job
from hpcmaf.launch.slurm.nodes import restarts
from hpcmaf.launch.slurm.refusals import ControllerAbsentError, RefusedError
from hpcmaf.launch.slurm.scheduler import Slurm
from hpcmaf.launch.slurm.script import check_path
from hpcmaf.launch.slurm.submissions import Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan

# Somebody is waiting at the prompt; a restarting controller is back by then.
PROMPT_SECONDS = 60.0

# A gate's, as long as it cannot read its profile.
_PATIENCE_SECONDS = 1800.0

# Another gate, or somebody's submit, holds the run for seconds as a rule.
_DRIVE_SECONDS = 900.0

# Looks at what was submitted before it is taken to be in good hands.
_SETTLE_LOOKS = 5

_CANCEL_POLL_SECONDS = 1.0

# Slurm's refusals in words that nobody knows are taken for good after so many times in the queue.
_MOST_REQUEUES = 48


def pass_gate(run: RunDir) -> None:
    """Advance a run, see that it held, and write the report when all is done; what a gate's job does."""
    signal.signal(signal.SIGUSR2, lambda *_: requeue_this_job())  # its time is up
    began, pause, patience = time.monotonic(), 5.0, _PATIENCE_SECONDS
    while True:
        try:
            profile = load_profile(str(run.profile))
            patience = 60 * profile.cluster.patience_minutes
            _advance(run, profile, patience)
            return
        except Exception as error:
            why = one_line(str(error)) if isinstance(error, HpcmafError) else f"{type(error).__name__}: {error}"
            if not passing(error):
                # Nobody watches: the reason has to lie where status looks.
                if run.plan.exists() and not run.stopped.exists():
                    folder = os.environ.get("SUBMITIT_FOLDER", "")
                    write_stop(run, Stop(reason=f"the gate failed: {why}", kind="gate", log=folder))
                raise
        print(f"{why}; waiting {pause:g} s", flush=True)
        if time.monotonic() + pause > began + patience:
            requeue_this_job(max(60.0, patience))
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def _advance(run: RunDir, profile: Profile, patience: float) -> None:
    with run.drive(_DRIVE_SECONDS):
        slurm = Slurm(run, run.load_plan(), profile, patience)
        _move(run, slurm)
    # Until what was submitted has reached the controller's disk: one that crashes forgets the jobs of its last seconds,
    # and with them the chain. This gate, older than they, would be the last.
    for _ in range(_SETTLE_LOOKS if slurm.submitted else 0):
        time.sleep(slurm.cluster.settle_seconds)
        with run.drive(_DRIVE_SECONDS):
            again = Slurm(run, run.load_plan(), profile, patience)
            seen = again.states()  # which releases what is held
            known = {job.id for job in seen.jobs}
            if lost := any(sent.job not in known for sent in slurm.submitted):
                _move(run, again)
                slurm = again
        if not (lost or any(job.held for job in seen.jobs)):
            break


def _move(run: RunDir, slurm: Slurm) -> None:
    states = advance(slurm, slurm.profile.attempts)
    if not states.unfinished():
        from hpcmaf.report.report import aggregate

        sweep(run, slurm.plan)
        aggregate([run.root], run.report)
        print(f"all done; table and plot: {run.report}", flush=True)
        slurm.cancel()  # the gates that are left


def submit(run: RunDir, plan: Plan, profile: Profile) -> Slurm:
    """Submit what is left of a run; what is queued or running stays as it is.

    Tasks that failed get a fresh start: the user who submits again has seen why, and done something about it. The
    caller holds the run.

    Raises
    ------
    ConfigError
        Slurm cannot be told of the run directory's path.
    SlurmError
        Slurm refused, or does not answer.
    """
    check_path(run.root)
    slurm = Slurm(run, plan, profile, PROMPT_SECONDS)
    start_afresh(slurm)
    advance(slurm, profile.attempts)
    return slurm


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
        time.sleep(_CANCEL_POLL_SECONDS)


def passing(error: Exception) -> bool:
    """Whether what came in a gate's way may be gone later."""
    if isinstance(error, SlurmError):
        unknown = type(error) is SlurmError
        return not isinstance(error, RefusedError) and not (unknown and restarts() >= _MOST_REQUEUES)
    return isinstance(error, RunBusyError) or failure_kind(error) in {"hardware", "lost", "memory"}
