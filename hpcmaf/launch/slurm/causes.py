"""Why a task did not finish, and whether that means a retry or the end of the run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from hpcmaf.errors import FailureKind
from hpcmaf.jobs.context import resume_point
from hpcmaf.launch.slurm.commands import Job
from hpcmaf.launch.slurm.submissions import Cause, Submissions, job_log
from hpcmaf.run.attempts import Attempt, all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows from a cause.

    Attributes
    ----------
    retry
        ``"progress"``: only if the attempt got further than the one before.
    counted
        Whether it uses up one of the profile's attempts.
    halve, avoid
        Whether the next attempt takes half the batch, or another node.
    """

    retry: bool | Literal["progress"]
    counted: bool = True
    halve: bool = False
    avoid: bool = False


# By the kind of cause.
RULES: dict[str, Rule] = {
    # The same input fails the same way again.
    "error": Rule(retry=False),
    "cancelled": Rule(retry=False),
    # Nobody's fault but the cluster's: free.
    "preempted": Rule(retry=True, counted=False),
    "node failure": Rule(retry=True, counted=False, avoid=True),
    "lost": Rule(retry=True, counted=False),
    "busy": Rule(retry=True, counted=False),
    "inputs": Rule(retry=True, counted=False),
    "stopped": Rule(retry=True, counted=False),
    "time limit": Rule(retry="progress", counted=False),
    "out of memory": Rule(retry=True, halve=True),
    "hardware": Rule(retry=True, avoid=True),
    "not started": Rule(retry=True, avoid=True),
    "killed": Rule(retry=True),
    "unfinished": Rule(retry=True),
}

# However free a cause is, something is wrong with a task that needs so many.
MOST_ATTEMPTS = 25

_STATES: dict[str, str] = {
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "LAUNCH_FAILED": "not started",
    "PREEMPTED": "preempted",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "OUT_OF_MEMORY": "out of memory",
    "CANCELLED": "cancelled",
    "COMPLETED": "unfinished",
}

# What an attempt's cause.json says by its type, whatever else it says.
_TYPES: dict[str, str] = {
    "StopRequested": "stopped",
    "TimeLimit": "time limit",
    "RunBusyError": "busy",
    "MissingInputError": "inputs",
}
# And by its kind. A damaged file may be whole on another node, which has other caches.
KINDS: dict[FailureKind, str] = {
    "hardware": "hardware",
    "lost": "hardware",
    "torn": "hardware",
    "memory": "out of memory",
    "killed": "killed",
    "time": "unfinished",
    "refused": "error",
    "defect": "error",
}

# Slurm's own words in a job's log. A task started by srun is FAILED to squeue, whether it was killed for memory or by
# hand.
_MEMORY = re.compile(r"oom[-_ ]kill|out[- ]of[- ]memory|exceeded (\w+ )?memory limit", re.IGNORECASE)
# srun asks the controller first, which does not answer, or has forgotten the job.
_NOT_HEARD = re.compile(
    r"unable to (create|confirm)[^:]*: .*(contact|timed out|zero bytes|connect|communicat|invalid job|pending|complet)|"
    r"expired or invalid job",
    re.IGNORECASE,
)
_STEPD = re.compile(r"^(?:slurmstepd|srun).*$", re.MULTILINE)
_LOG_TAIL = 8192


def slurm_says(log: Path, words: re.Pattern[str]) -> bool:
    """Whether slurmstepd or srun says so at the end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL))
            tail = file.read().decode(errors="replace")
    except OSError:
        return False
    return any(words.search(line) for line in _STEPD.findall(tail))


def find_cause(attempt: Attempt | None, job: Job | None, resume_point: int) -> Cause:
    """Why a task of a submission that has ended is not done.

    Parameters
    ----------
    attempt
        The last one made by that submission; ``None`` when none ever began.
    job
        What Slurm still knows of it, from squeue or sacct; without a state, a job that has ended.
    resume_point
        How far the task is (:func:`hpcmaf.jobs.context.resume_point`).
    """
    facts = attempt.facts if attempt else {}
    left = attempt.cause if attempt else None
    log, ran = str(facts.get("log", "")), str(facts.get("node", "") or (job.nodes if job else ""))
    # A job of several nodes points at the one that its task names, if any.
    several = facts.get("nodes", 1) > 1 or re.search(r"[\[,]", job.nodes if job else "")
    node = str((left or {}).get("node", "" if several else ran))
    progressed = resume_point > int(facts.get("progress", 0))

    def cause(kind: str, text: str) -> Cause:
        return Cause(kind, text, log, node, progressed)

    if left is not None:
        kind: Any = left.get("kind") or ("memory" if left.get("type") == "OutOfMemory" else "refused")
        return cause(_TYPES.get(left.get("type", "")) or KINDS.get(kind, "error"), str(left.get("message", "")))
    where = f" on {ran}" if ran else ""
    if job is not None and job.state in _STATES:
        state = _STATES[job.state]
        if state == "cancelled" and attempt is None and job.reason == "DependencyNeverSatisfied":
            state = "lost"
        return cause(state, f"Slurm says {job.state}{where}")
    if attempt is None:
        if job is None:
            return cause("lost", "Slurm knows nothing of it, and it never began")
        state = f" as {job.state}" if job.state else ""
        return cause("not started", f"its job ended{state}{where} before the task began")
    if log and slurm_says(Path(log), _MEMORY):
        return cause("out of memory", f"Slurm killed it for its memory limit{where}")
    state = f"Slurm says {job.state}{where}" if job is not None and job.state else f"killed{where}"
    return cause("killed", f"{state}, and it left no word (killed, perhaps for want of memory)")


def find_causes(
    run: RunDir,
    plan: Plan,
    log: Submissions,
    keys: Sequence[TaskKey],
    ended: Callable[[Sequence[TaskKey]], Mapping[TaskKey, Job]],
    controller_start: Callable[[], str] = str,
) -> dict[TaskKey, Cause]:
    """Why tasks are not done, whose submissions are over.

    Parameters
    ----------
    ended
        Slurm's last word on the jobs of tasks that left none themselves.
    controller_start
        When Slurm's controller started, as ``scontrol show config`` writes it.
    """
    own = {(id, task): attempt_of(run, plan.stage(id), task, log.latest[id, task][0].name) for id, task in keys}
    jobs = ended([key for key, attempt in own.items() if attempt is None or attempt.cause is None])
    causes = {}
    for key, attempt in own.items():
        submission, index = log.latest[key]
        if attempt is None:
            turns = submission.keys(index)
            before = turns[: turns.index(key)]
            if any(attempt_of(run, plan.stage(id), other, submission.name) for id, other in before):
                causes[key] = Cause("lost", "its job ended before its turn came")
                continue
        cause = find_cause(attempt, jobs.get(key), resume_point(run, plan.stage(key[0]), key[1]))
        written = job_log(run, submission, index) if attempt is None else None
        cause = replace(cause, log=cause.log or str(written or ""))
        # Once: a node where nothing starts would use up all attempts.
        earlier = log.verdicts.get(key)
        excused = bool(earlier) and earlier[-1].kind == "lost"
        if cause.kind in {"not started", "node failure"} and not excused:
            if excuse := _excuse(jobs.get(key), written, controller_start):
                cause = replace(cause, kind="lost", text=f"{cause.text}: {excuse}", node="")
        causes[key] = cause
    return causes


# For so long after a crash a controller finds out what runs, and ends or misses jobs of before wherever they are.
_RESTART = timedelta(minutes=2)


def _excuse(job: Job | None, log: Path | None, controller_start: Callable[[], str]) -> str:
    """Why a job that did not come to its task says nothing of its node; empty where it does."""
    if log is not None and slurm_says(log, _NOT_HEARD):
        return "srun was not heard"
    try:
        began, ended = (datetime.fromisoformat(time) for time in ((job.start, job.end) if job else ("", "")))
        restarted = datetime.fromisoformat(controller_start())
    except ValueError:  # one of them is not known
        return ""
    return "Slurm's controller was restarted" if began <= restarted <= ended <= restarted + _RESTART else ""


def attempt_of(run: RunDir, stage: Stage, task: str, submission: str) -> Attempt | None:
    """The last attempt that a submission made at a task."""
    attempts = reversed(all_attempts(run.attempts(stage, task)))
    return next((attempt for attempt in attempts if attempt.facts.get("submission") == submission), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to try again, and how."""

    retry: bool
    why: str
    halve: bool = False


def decide(cause: Cause, earlier: Sequence[Cause], attempts: int) -> Decision:
    """Weigh a cause against what a task has been through.

    Parameters
    ----------
    earlier
        Of the attempts before this one.
    attempts
        The profile's ceiling of counted ones.
    """
    rule = RULES[cause.kind]
    if rule.retry is False:
        return Decision(False, cause.text)
    if rule.retry == "progress" and not cause.progressed:
        return Decision(
            False, f"{cause.text} without getting any further than the attempt before; raise the profile's minutes"
        )
    counted = rule.counted + sum(one.kind not in RULES or RULES[one.kind].counted for one in earlier)
    if rule.counted and counted >= attempts:
        return Decision(False, f"{cause.text}; that was attempt {counted} of {attempts}")
    if len(earlier) + 1 >= MOST_ATTEMPTS:
        return Decision(False, f"{cause.text}; attempt {len(earlier) + 1} in all")
    # Out of memory the kernel kills without a word: believe it the second time.
    again = cause.kind == "killed" and any(one.kind == "killed" for one in earlier)
    return Decision(True, cause.text, rule.halve or again)


# How long a node is suspect to all tasks; whoever mends it tells nobody.
_SUSPECT_SECONDS = 1800.0


def nodes_to_avoid(verdicts: Mapping[TaskKey, Sequence[Cause]], key: TaskKey | None = None) -> list[str]:
    """Nodes on which a task, or two of the run, failed in a way that points at the node; the first one first."""
    failed: dict[str, set[TaskKey]] = {}
    all_causes = ((task, cause) for task, causes in verdicts.items() for cause in causes)
    for task, cause in sorted(all_causes, key=lambda one: one[1].time):
        points = cause.node and cause.kind in RULES and RULES[cause.kind].avoid
        if points and (task == key or time.time() - cause.time < _SUSPECT_SECONDS):
            failed.setdefault(cause.node, set()).add(task)
    return [node for node, tasks in failed.items() if key in tasks or len(tasks) > 1]
