"""Where every task of a run is, seen from outside: nothing is written, no lock is kept.

On one machine by markers and locks; on a cluster by markers, then one squeue, then at most one sacct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Literal

from hpcmaf.config.profile import load_profile
from hpcmaf.errors import SlurmError
from hpcmaf.launch.scheduler import States, read_stop
from hpcmaf.launch.slurm.causes import RULES, find_causes
from hpcmaf.launch.slurm.commands import Job, call, queue
from hpcmaf.launch.slurm.refusals import ordinary, releasing
from hpcmaf.launch.slurm.snapshot import Snapshot, ended_jobs
from hpcmaf.launch.slurm.submissions import Cause, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import TaskKey

State = Literal["done", "running", "queued", "stopped", "stalled", "unknown"]

# After hpcmaf cancel these are no failures; what else stops a chain takes what is queued out of it, and no more.
_ENDS_OF_CANCELLED = frozenset({"cancelled", "stopped", "killed", "lost", "preempted"})
_ENDS_OF_STOPPED = frozenset({"cancelled", "lost"})
# Somebody is looking: what does not answer by then is left out.
_QUEUE_SECONDS, _ACCOUNTING_SECONDS = 20.0, 5.0


class Survey:
    """Where every task is; Slurm is queried only for runs on a cluster, and need not answer.

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

    Raises
    ------
    DataError
        It is not a run directory.
    PlanChangedError
        Its plan was edited.
    ConfigError
        Its profile is missing or damaged.
    """

    def __init__(self, run: RunDir) -> None:
        self.run, self.plan, self.profile = run, run.load_plan(), load_profile(str(run.profile))
        self.running: dict[str, list[str]] = {}
        self.pending: dict[str, list[str]] = {}
        self.failures: dict[TaskKey, Cause] = {}
        self.again: set[TaskKey] = set()
        self.state: State = "unknown"
        self.why, self.refusal = "", ""
        self.gates: list[str] = []
        self.notes: list[str] = []
        self.stopped = read_stop(run)
        log = Submissions(run.submissions, dry=True)
        states = self._on_cluster(log) if self.profile.launcher == "slurm" else self._on_machine(log)
        self.done = states.done

    def _on_machine(self, log: Submissions) -> States:
        """Failed are tasks of which the driver has said so; what it left behind when it was stopped is tried again."""
        states, lacking = States(self.plan, self.run.done_tasks(self.plan)), "no 'hpcmaf submit' drives the run"
        for stage in states.unfinished():
            for task in states.missing(stage):
                if self.run.claimed(stage, task):
                    self.running.setdefault(stage.id, []).append(task)
                elif cause := log.judged((stage.id, task)):
                    self.failures[stage.id, task] = cause
        if not states.unfinished():
            self.state = "done"
        elif self.run.driven():
            self.state, self.why = "running", "a process drives it"
        elif self.failures:
            self.state, self.why = "stopped", f"{len(self.failures)} task(s) failed"
        else:
            self.state, self.why = "stalled", f"what runs will end, but {lacking}" if self.running else lacking
        return states

    def _on_cluster(self, log: Submissions) -> States:
        jobs: list[Job] | None = []
        try:
            if log.submissions:
                jobs = queue(seconds=min(_QUEUE_SECONDS, self.profile.cluster.command_seconds))
        except SlurmError as error:
            self.notes.append(f"{error}; what runs and what waits is not known")
            jobs = None
        # Queried before the markers are read: a task that ended in between has its own by now.
        states = Snapshot.take(self.run, self.plan, log, jobs or ())
        for (id, task), job in states.in_flight.items():
            (self.running if job.running else self.pending).setdefault(id, []).append(task)
        self.gates = [gate.job for gate in states.gates if gate.job]
        if jobs is not None:
            self._find_failures(log, states)
        self._judge(log, states, jobs is not None)
        if self.state not in {"done", "stopped", "unknown"}:
            self.notes += self._reasons(states)
        if log.refused and self.state != "done":
            *_, self.refusal = log.refused.values()
            self.notes.append(f"Slurm refused {len(log.refused)} job(s): {self.refusal}")
        return states

    def _find_failures(self, log: Submissions, states: Snapshot) -> None:
        """Tasks that were submitted, are not done, and that Slurm has no more."""
        lost = [(stage.id, task) for stage in states.unfinished() for task in states.missing(stage)]
        lost = [key for key in lost if key in log.latest]
        causes = {key: cause for key in lost if (cause := log.judged(key))}
        ended = partial(ended_jobs, states, log, seconds=_ACCOUNTING_SECONDS, say=self.notes.append)
        causes |= find_causes(self.run, self.plan, log, [key for key in lost if key not in causes], ended)
        stopped = self.stopped
        swept = _ENDS_OF_CANCELLED if stopped and stopped.kind == "cancelled" else _ENDS_OF_STOPPED
        for key, cause in causes.items():
            at_fault = stopped is not None and key == (stopped.stage, stopped.task)
            if stopped and not at_fault and cause.kind in swept:
                continue  # it was taken out of the queue, or stopped, with the rest of the chain
            self.failures[key] = cause
            if not at_fault and cause.kind in RULES and RULES[cause.kind].retry:
                self.again.add(key)

    def _judge(self, log: Submissions, states: Snapshot, answered: bool) -> None:
        driven = self.run.driven()
        if not states.unfinished():
            self.state = "done"
        elif self.stopped is not None:
            self.state, self.why = "stopped", self.stopped.reason
        elif not answered:
            self.why = "Slurm does not answer"
        # Gates may be pending behind nothing: it is they who submit what comes next.
        elif self.running or self.pending or self.gates:
            running, queued = sum(map(len, self.running.values())), sum(map(len, self.pending.values()))
            gates = f"gate {', '.join(self.gates)}" if self.gates else "no gate"
            self.state = "running" if any(job.running for job in states.jobs) else "queued"
            self.why = f"{running} running, {queued} queued, {gates} behind them"
            if not self.gates and not driven:
                self.notes.append("no gate is behind what runs: the chain will stall; 'hpcmaf submit' sets one")
        elif driven:
            self.state, self.why = "running", "a process is submitting"
        elif not log.submissions:
            self.state, self.why = "stalled", "nothing of it was submitted yet"
        else:
            self.state = "stalled"
            self.why = "work is left, but Slurm has none of it, and no gate is left to move it on"

    def _reasons(self, states: Snapshot) -> Iterator[str]:
        """Why Slurm does not start what is queued, gates too, wherever that is not the queue itself."""
        waiting: dict[str, list[Job]] = {}
        for job in states.jobs:
            if job.live and not job.running and not ordinary(job.reason):
                waiting.setdefault(job.reason, []).append(job)
        for reason, jobs in sorted(waiting.items()):
            ids = list(dict.fromkeys(job.id for job in jobs))
            what = "the gate waits" if set(self.gates).issuperset(ids) else f"Slurm holds {len(jobs)} job(s) back"
            starts = min((job.start for job in jobs if job.start[:4].isdigit()), default="")
            # What Slurm reckoned before somebody held it is true no more.
            when = f", expected to start at {starts}" if starts and not reason.startswith("JobHeld") else ""
            if "maintenance" in reason.lower() or reason.startswith("ReqNodeNotAvail"):
                when += _maintenance(min(_ACCOUNTING_SECONDS, self.profile.cluster.command_seconds))
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
