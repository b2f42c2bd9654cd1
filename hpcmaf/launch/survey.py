"""Where every task of a run is, seen from outside: nothing is written, no lock is taken.

On one machine by markers and locks; on a cluster by markers, then one squeue, then at most one sacct.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.files.locking import lock_holders
from hpcmaf.launch.scheduler import States, Stop, read_stop
from hpcmaf.launch.slurm.causes import RULES, find_causes
from hpcmaf.launch.slurm.commands import Job, call, queue
from hpcmaf.launch.slurm.refusals import ordinary, releasing
from hpcmaf.launch.slurm.snapshot import Snapshot, ended_jobs
from hpcmaf.launch.slurm.submissions import Cause, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, TaskKey

State = Literal["done", "running", "queued", "stopped", "stalled", "unknown"]

# After hpcmaf cancel these are no failures; what else stops a chain takes what is queued out of it, and no more.
_ENDS_OF_CANCELLED = frozenset({"cancelled", "stopped", "killed", "lost", "preempted"})
_ENDS_OF_STOPPED = frozenset({"cancelled", "lost"})
# Somebody is looking: what does not answer by then is left out.
_QUEUE_SECONDS, _ACCOUNTING_SECONDS = 20.0, 5.0


@dataclass
class Survey:
    """Where every task is.

    Attributes
    ----------
    done, running, pending
        Tasks by stage id; pending ones wait in Slurm's queue.
    failures
        What failed and is neither queued nor running again, and why.
    again
        Those among them that the chain gives another attempt by itself.
    state, why
        Of the run as a whole; ``why`` is one line, empty for ``done``.
    gates
        Job ids of the gates that are queued or running.
    stopped
        Why nothing more is submitted, if so.
    notes
        What could not be found out, and what looks odd.
    refusal
        Slurm's words, where it refused the last job that was to be submitted.
    """

    done: Mapping[str, set[str]]
    running: dict[str, list[str]] = field(default_factory=dict)
    pending: dict[str, list[str]] = field(default_factory=dict)
    failures: dict[TaskKey, Cause] = field(default_factory=dict)
    again: set[TaskKey] = field(default_factory=set)
    state: State = "unknown"
    why: str = ""
    gates: list[str] = field(default_factory=list)
    stopped: Stop | None = None
    notes: list[str] = field(default_factory=list)
    refusal: str = ""


def survey(run: RunDir, plan: Plan, profile: Profile) -> Survey:
    """Look at a run, wherever it runs; Slurm is queried only for runs on a cluster, and need not answer."""
    return _on_cluster(run, plan, profile) if profile.launcher == "slurm" else _on_machine(run, plan)


def driver(run: RunDir) -> int | None:
    """Process on this machine that drives the run (``RunDir.drive``), if any."""
    return _holder(run.driver_lock, lock_holders())


# --- on one machine


def _on_machine(run: RunDir, plan: Plan) -> Survey:
    """Only this machine's processes are seen: watched from another one, a run seems to have no driver.

    Failed are tasks of which the driver has said so; what it left behind when it was stopped is tried again by the next
    one.
    """
    states, log, locks = States(plan, run.done_tasks(plan)), Submissions(run.submissions, dry=True), lock_holders()
    result = Survey(states.done)
    for stage in states.unfinished():
        for task in states.missing(stage):
            if _holder(run.attempts(stage, task) / "lock", locks) is not None:
                result.running.setdefault(stage.id, []).append(task)
            elif cause := log.judged((stage.id, task)):
                result.failures[stage.id, task] = cause
    pid, lacking = _holder(run.driver_lock, locks), "no 'hpcmaf submit' on this machine drives the run"
    if not states.unfinished():
        result.state = "done"
    elif pid is not None:
        result.state, result.why = "running", f"driven by process {pid}"
    elif locks is None:
        result.why = "this system has no /proc/locks, which tells whether anybody drives it"
    elif result.failures:
        result.state, result.why = "stopped", f"{len(result.failures)} task(s) failed"
    else:
        result.state, result.why = "stalled", f"what runs will end, but {lacking}" if result.running else lacking
    return result


def _holder(path: os.PathLike[str], locks: Mapping[int, int] | None) -> int | None:
    try:
        return (locks or {}).get(os.stat(path).st_ino)
    except FileNotFoundError:
        return None


# --- on a cluster


def _on_cluster(run: RunDir, plan: Plan, profile: Profile) -> Survey:
    log = Submissions(run.submissions, dry=True)
    notes: list[str] = []
    jobs: list[Job] | None = []
    try:
        if log.submissions:
            jobs = queue(seconds=min(_QUEUE_SECONDS, profile.cluster.command_seconds))
    except SlurmError as error:
        notes.append(f"{error}; what runs and what waits is not known")
        jobs = None
    # Queried before the markers are read: a task that ended in between has its own by now.
    snapshot = Snapshot.take(run, plan, log, jobs or ())
    result = Survey(snapshot.done, notes=notes, stopped=read_stop(run))
    for (id, task), job in snapshot.in_flight.items():
        (result.running if job.running else result.pending).setdefault(id, []).append(task)
    result.gates = [gate.job for gate in snapshot.gates if gate.job]
    if jobs is not None:
        _find_failures(run, plan, log, snapshot, result)
    _judge(run, log, snapshot, result, jobs is not None)
    if result.state not in {"done", "stopped", "unknown"}:
        notes += _reasons(snapshot, profile)
    if log.refused and result.state != "done":
        *_, result.refusal = log.refused.values()
        notes.append(f"Slurm refused {len(log.refused)} job(s): {result.refusal}")
    return result


def _find_failures(run: RunDir, plan: Plan, log: Submissions, snapshot: Snapshot, result: Survey) -> None:
    """Tasks that were submitted, are not done, and that Slurm has no more."""
    lost = [(stage.id, task) for stage in snapshot.unfinished() for task in snapshot.missing(stage)]
    lost = [key for key in lost if key in log.latest]
    causes = {key: cause for key in lost if (cause := log.judged(key))}
    ended = partial(ended_jobs, snapshot, log, seconds=_ACCOUNTING_SECONDS, say=result.notes.append)
    causes |= find_causes(run, plan, log, [key for key in lost if key not in causes], ended)
    stopped = result.stopped
    swept = _ENDS_OF_CANCELLED if stopped and stopped.kind == "cancelled" else _ENDS_OF_STOPPED
    for key, cause in causes.items():
        at_fault = stopped is not None and key == (stopped.stage, stopped.task)
        if stopped and not at_fault and cause.kind in swept:
            continue  # it was taken out of the queue, or stopped, with the rest of the chain
        result.failures[key] = cause
        if not at_fault and cause.kind in RULES and RULES[cause.kind].retry:
            result.again.add(key)


def _judge(run: RunDir, log: Submissions, snapshot: Snapshot, result: Survey, answered: bool) -> None:
    holder = driver(run)
    if not snapshot.unfinished():
        result.state = "done"
    elif result.stopped is not None:
        result.state, result.why = "stopped", result.stopped.reason
    elif not answered:
        result.why = "Slurm does not answer"
    # Gates may be pending behind nothing: it is they who submit what comes next.
    elif result.running or result.pending or result.gates:
        running, queued = sum(map(len, result.running.values())), sum(map(len, result.pending.values()))
        gates = f"gate {', '.join(result.gates)}" if result.gates else "no gate"
        result.state = "running" if any(job.running for job in snapshot.jobs) else "queued"
        result.why = f"{running} running, {queued} queued, {gates} behind them"
        if not result.gates and holder is None:
            result.notes.append("no gate is behind what runs: the chain will stall; 'hpcmaf submit' sets one")
    elif holder is not None:
        result.state, result.why = "running", f"process {holder} is submitting"
    elif not log.submissions:
        result.state, result.why = "stalled", "nothing of it was submitted yet"
    else:
        result.state = "stalled"
        result.why = "work is left, but Slurm has none of it, and no gate is left to move it on"


def _reasons(snapshot: Snapshot, profile: Profile) -> Iterable[str]:
    """Why Slurm does not start what is queued, gates too, wherever that is not the queue itself."""
    waiting: dict[str, list[Job]] = {}
    for job in snapshot.jobs:
        if job.live and not job.running and not ordinary(job.reason):
            waiting.setdefault(job.reason, []).append(job)
    gates = {gate.job for gate in snapshot.gates}
    for reason, jobs in sorted(waiting.items()):
        ids = list(dict.fromkeys(job.id for job in jobs))
        what = "the gate waits" if gates.issuperset(ids) else f"Slurm holds {len(jobs)} job(s) back"
        starts = min((job.start for job in jobs if job.start[:4].isdigit()), default="")
        # What Slurm reckoned before somebody held it is true no more.
        when = f", expected to start at {starts}" if starts and not reason.startswith("JobHeld") else ""
        if "maintenance" in reason.lower() or reason.startswith("ReqNodeNotAvail"):
            when += _maintenance(min(_ACCOUNTING_SECONDS, profile.cluster.command_seconds))
        remedy = releasing(reason, ids)
        yield f"{what}: {reason}{when}" + (f"; {remedy}" if remedy else "")


def _maintenance(seconds: float) -> str:
    """When the next maintenance is, as Slurm has it."""
    try:
        lines = call(["scontrol", "show", "reservation", "--oneliner"], seconds=seconds).splitlines()
    except SlurmError:
        return ""
    known = (dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines if "MAINT" in line)
    times = sorted((row.get("StartTime", ""), row.get("EndTime", "")) for row in known)
    return f", maintenance from {times[0][0]} to {times[0][1]}" if times else ""
