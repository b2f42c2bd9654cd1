"""Where every task of a run on a cluster is: markers, then one squeue, then at most one sacct."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.launch.estimate import read_progress
from hpcmaf.launch.slurm.causes import RULES, find_cause
from hpcmaf.launch.slurm.commands import AccountingAbsentError, Job, call, queue
from hpcmaf.launch.slurm.losses import accounted
from hpcmaf.launch.slurm.refusals import ordinary, releasing
from hpcmaf.launch.slurm.snapshot import Snapshot, TaskKey
from hpcmaf.launch.slurm.stopped import read_stop
from hpcmaf.launch.slurm.submissions import Submissions
from hpcmaf.launch.survey import Failure, Survey, begun_tasks, driver, unfinished
from hpcmaf.run.attempts import all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan
from hpcmaf.training.nodes import MEETING

# Somebody is looking: what does not answer by then is left out.
_QUEUE_SECONDS, _ACCOUNTING_SECONDS = 20.0, 5.0

# After hpcmaf cancel these are no failures; what else stops a chain takes what is queued out of it, and no more.
_ENDS_OF_CANCELLED = frozenset({"cancelled", "stopped", "killed", "lost", "preempted"})
_ENDS_OF_STOPPED = frozenset({"cancelled", "lost"})


def survey_cluster(run: RunDir, plan: Plan, profile: Profile) -> Survey:
    """Look at a run of the Slurm launcher."""
    log = Submissions(run.submissions)
    notes: list[str] = []
    jobs: list[Job] = []
    answered = True
    if log.submissions:
        try:
            jobs = queue(seconds=min(_QUEUE_SECONDS, profile.cluster.command_seconds))
        except SlurmError as error:
            notes.append(f"{error}; what runs and what waits is not known")
            answered = False
    # Asked before the markers are looked at: a task that ended in between has its own by now.
    snapshot = Snapshot.take(run, plan, log, jobs, confirm=False)
    result = Survey(snapshot.done, notes=notes, stopped=read_stop(run))
    for (id, task), job in snapshot.in_flight.items():
        (result.running if job.running else result.pending).setdefault(id, []).append(task)
    result.gates = [gate.job for gate in snapshot.gates if gate.job]
    if answered:
        result.failures = _failures(run, plan, log, snapshot, result)
    _judge(run, profile, log, snapshot, result, answered)
    if answered and result.state not in {"done", "stopped"}:
        result.notes += _waiting(snapshot, profile)
    if log.refused and result.state != "done":
        *_, result.refusal = log.refused.values()
        result.notes.append(f"Slurm refused {len(log.refused)} job(s): {result.refusal}")
    result.notes += _meetings(run, plan, result)
    return result


def _waiting(snapshot: Snapshot, profile: Profile) -> list[str]:
    """Why Slurm does not start what is queued, gates too, wherever that is not the queue itself."""
    reasons: dict[str, list[Job]] = {}
    for job in snapshot.jobs:
        if job.live and not job.running and not ordinary(job.reason):
            reasons.setdefault(job.reason, []).append(job)
    gates = {gate.job for gate in snapshot.gates}
    notes = []
    for reason, jobs in sorted(reasons.items()):
        ids = list(dict.fromkeys(job.id for job in jobs))
        what = "the gate waits" if gates.issuperset(ids) else f"Slurm holds {len(jobs)} job(s) back"
        starts = min((job.start for job in jobs if job.start[:4].isdigit()), default="")
        when = f", expected to start at {starts}" if starts else ""
        if "maintenance" in reason.lower() or reason.startswith("ReqNodeNotAvail"):
            when += _maintenance(profile)
        remedy = releasing(reason, ids)
        notes.append(f"{what}: {reason}{when}" + (f"; {remedy}" if remedy else ""))
    return notes


def _maintenance(profile: Profile) -> str:
    """When the next maintenance is, as Slurm has it."""
    try:
        text = call(
            ["scontrol", "show", "reservation", "--oneliner"],
            seconds=min(_ACCOUNTING_SECONDS, profile.cluster.command_seconds),
        )
    except SlurmError:
        return ""
    known = (dict(re.findall(r"(\w+)=(\S+)", line)) for line in text.splitlines() if "MAINT" in line)
    times = sorted((row.get("StartTime", ""), row.get("EndTime", "")) for row in known)
    return f", maintenance from {times[0][0]} to {times[0][1]}" if times else ""


def _meetings(run: RunDir, plan: Plan, result: Survey) -> list[str]:
    """Jobs of several nodes that have not begun to train."""
    notes = []
    for id, tasks in result.running.items():
        for task in tasks if id.endswith("/finetune") else ():
            progress = read_progress(run, plan.stage(id), task)
            if progress is not None and progress.get("unit") == MEETING:
                notes.append(f"{id} {task}: its {progress['total']} nodes are meeting, or load the model")
    return notes


def _failures(run: RunDir, plan: Plan, log: Submissions, snapshot: Snapshot, result: Survey) -> dict[TaskKey, Failure]:
    """Tasks that were submitted, are not done, and that Slurm has no more."""
    lost = [
        (stage.id, task)
        for stage, task in unfinished(plan, snapshot.done)
        if (stage.id, task) in log.latest and (stage.id, task) not in snapshot.in_flight
    ]
    if not lost:
        return {}
    begun, stages = begun_tasks(run, plan), {stage.id: stage for stage in plan.stages}
    own = {}
    for key in lost:
        if key in begun:
            name = log.latest[key][0].name
            attempts = all_attempts(run.attempts(stages[key[0]], key[1]))
            own[key] = next((a for a in reversed(attempts) if a.facts.get("submission") == name), None)
    verdicts = {key: log.verdicts[key][-1] for key in lost if log.verdicts.get(key)}
    verdicts = {key: found for key, found in verdicts.items() if found.submission == log.latest[key][0].name}
    told = {key for key, attempt in own.items() if attempt is not None and attempt.cause is not None}
    ended = dict(snapshot.ended)
    unknown = [key for key in lost if key not in verdicts and key not in told and key not in ended]
    if unknown:
        try:
            ended |= accounted(log, unknown, seconds=_ACCOUNTING_SECONDS)
        except AccountingAbsentError as error:
            result.notes.append(f"{error}; causes are told from what the tasks left behind")
    failures = {}
    for key in lost:
        cause = find_cause(own.get(key), ended.get(key), 0)
        kind: str = cause.kind
        text = cause.text
        if (verdict := verdicts.get(key)) is not None:
            kind, text = verdict.kind, verdict.text
        if _swept(kind, key, result.stopped):
            continue
        failures[key] = Failure(*key, kind, text, cause.log, cause.node, _again(kind, key, result.stopped))
    return failures


def _swept(kind: str, key: TaskKey, stopped: Mapping[str, object] | None) -> bool:
    """Whether it did not fail, but was taken out of the queue, or stopped, with the rest of the chain."""
    if stopped is None or key == (stopped.get("stage"), stopped.get("task")):
        return False
    return kind in (_ENDS_OF_CANCELLED if stopped.get("kind") == "cancelled" else _ENDS_OF_STOPPED)


def _again(kind: str, key: TaskKey, stopped: Mapping[str, object] | None) -> bool:
    if stopped is not None and key == (stopped.get("stage"), stopped.get("task")):
        return False
    return RULES[kind].retry is not False if kind in RULES else False  # type: ignore[index]


def _judge(run: RunDir, profile: Profile, log: Submissions, snapshot: Snapshot, result: Survey, answered: bool) -> None:
    gated = profile.cluster.chain == "gated"
    running, queued = sum(map(len, result.running.values())), sum(map(len, result.pending.values()))
    if not snapshot.unfinished():
        result.state = "done"
        return
    if result.stopped is not None:
        result.state, result.why = "stopped", str(result.stopped["reason"])
        return
    if not answered:
        result.state, result.why = "unknown", "Slurm does not answer"
        return
    holder = driver(run)
    if holder == os.getpid():  # whoever asks, before it submits
        holder = None
    # Gates may be pending behind nothing: it is they who submit what comes next.
    if running or queued or result.gates:
        result.state = "running" if any(job.running for job in snapshot.jobs) else "queued"
        gates = f"gate {', '.join(result.gates)}" if result.gates else "no gate"
        result.why = f"{running} running, {queued} queued, {gates} behind them" if gated else "queued as a whole"
        if gated and not result.gates and holder is None:
            result.notes.append("no gate is behind what runs: the chain will stall; 'hpcmaf submit' sets one")
    elif holder is not None:
        result.state, result.why = "running", f"process {holder} is submitting"
    elif not log.submissions:
        result.state, result.why = "stalled", "nothing of it was submitted yet"
    else:
        lacking = "no gate is left to move it on" if gated else "nothing is left in the queue"
        result.state, result.why = "stalled", f"work is left, but Slurm has none of it, and {lacking}"
