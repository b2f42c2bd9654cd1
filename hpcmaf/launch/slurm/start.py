"""Putting a run's chain of jobs on its way, or back on it."""

from __future__ import annotations

from hpcmaf.config.profile import Profile
from hpcmaf.jobs.task import run_task
from hpcmaf.launch.recovery import recover
from hpcmaf.launch.slurm.chain import Chain
from hpcmaf.launch.slurm.gate import Gate
from hpcmaf.launch.slurm.requests import check_path
from hpcmaf.launch.slurm.snapshot import Snapshot, TaskKey
from hpcmaf.launch.slurm.task import Work
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan

# Somebody is waiting at the prompt; a restarting controller is back by then.
PATIENCE_SECONDS = 60.0


def start_chain(
    run: RunDir, plan: Plan, profile: Profile, *, only: set[TaskKey] | None = None, work: Work = run_task
) -> Chain:
    """Submit what is left of a run; what is queued or running stays as it is.

    Tasks that failed get a fresh start: the user who submits again has seen
    why, and done something about it. The caller holds the run.

    Parameters
    ----------
    only
        Failed tasks to give a fresh start; left out, all of them.

    Raises
    ------
    ConfigError
        Slurm cannot be told of the run directory's path.
    SlurmError
        Slurm refused, or does not answer.
    """
    check_path(run.root)
    chain = Gate.of(run, profile, work).chain(run, plan, profile, PATIENCE_SECONDS)
    snapshot = chain.look()
    if not snapshot.in_flight:
        chain.said += recover(run, plan)
        snapshot = chain.look()
    chain.log.reset(_failed(chain, snapshot, only))
    run.stopped.unlink(missing_ok=True)
    if profile.cluster.chain == "gated":
        chain.advance()
    else:
        chain.queue_all()
    return chain


def _failed(chain: Chain, snapshot: Snapshot, only: set[TaskKey] | None) -> list[TaskKey]:
    keys = [(stage.id, task) for stage in snapshot.unfinished() for task in snapshot.missing(stage)]
    touched = chain.log.latest.keys() | chain.log.verdicts.keys()
    return [key for key in keys if key in touched and (only is None or key in only)]
