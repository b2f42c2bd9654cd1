"""Why a task did not finish, and what that is worth: another attempt, or the end of the chain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpcmaf.attempts import Attempt
from hpcmaf.launch.slurm.commands import Job
from hpcmaf.launch.slurm.submissions import Verdict

Kind = Literal[
    "error",
    "inputs",
    "busy",
    "stopped",
    "preempted",
    "node failure",
    "hardware",
    "time limit",
    "out of memory",
    "killed",
    "not started",
    "unfinished",
    "cancelled",
    "lost",
]


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


RULES: dict[Kind, Rule] = {
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

_STATES: dict[str, Kind] = {
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

_TYPES: dict[str, Kind] = {
    "StopRequested": "stopped",
    "RunBusyError": "busy",
    "OutOfMemory": "out of memory",
    "MissingInputError": "inputs",
}

# Errors of a machine rather than of a program, in the words of CUDA and NCCL.
_HARDWARE = re.compile(
    r"uncorrectable ECC|fell off the bus|NVLink|CUDA error: (unknown error|unspecified launch failure|"
    r"all CUDA-capable devices are busy|CUDA-capable device\(s\) is/are busy|initialization error)|"
    r"NCCL error.*(unhandled system error|remote process exited)|Stale file handle|Input/output error",
    re.IGNORECASE,
)


# slurmstepd's own words in a job's log. A task started by srun is FAILED to
# squeue, whether it was killed for memory or by hand.
_MEMORY = re.compile(r"oom[-_ ]kill|out of memory|exceeded memory limit", re.IGNORECASE)
_STEPD = re.compile(r"^slurmstepd.*$", re.MULTILINE)
_LOG_TAIL = 8192


def killed_for_memory(log: Path) -> bool:
    """Whether slurmstepd says so at the end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL))
            tail = file.read().decode(errors="replace")
    except OSError:
        return False
    return any(_MEMORY.search(line) for line in _STEPD.findall(tail))


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one attempt did not finish.

    Attributes
    ----------
    text
        What to tell the user.
    log
        Where to read on; empty when there is none.
    node
        Where it ran.
    """

    kind: Kind
    text: str
    log: str = ""
    node: str = ""
    progressed: bool = False

    @property
    def rule(self) -> Rule:
        """What follows from it."""
        return RULES[self.kind]


def find_cause(attempt: Attempt | None, job: Job | None, standing: int) -> Cause:
    """Why a task of a submission that has ended is not done.

    Parameters
    ----------
    attempt
        The last one made by that submission; ``None`` when none ever began.
    job
        What Slurm still knows of it, from squeue or sacct.
    standing
        How far the task is (:func:`hpcmaf.stages.standing.standing`).
    """
    facts = attempt.facts if attempt else {}
    log, node = str(facts.get("log", "")), str(facts.get("node", "") or (job.nodes if job else ""))
    progressed = standing > int(facts.get("progress", 0))

    def cause(kind: Kind, text: str) -> Cause:
        return Cause(kind, text, log, node, progressed)

    if attempt is not None and attempt.cause is not None:
        kind, message = str(attempt.cause.get("type", "")), str(attempt.cause.get("message", ""))
        if kind in _TYPES:
            return cause(_TYPES[kind], message)
        if not attempt.cause.get("expected", False) and _HARDWARE.search(message):
            return cause("hardware", message)
        return cause("error", message)
    where = f" on {node}" if node else ""
    if job is not None and job.state in _STATES:
        state = _STATES[job.state]
        if state == "cancelled" and attempt is None and job.reason == "DependencyNeverSatisfied":
            state = "lost"
        return cause(state, f"Slurm says {job.state}{where}")
    if attempt is None:
        if job is None:
            return cause("lost", "Slurm knows nothing of it, and it never began")
        return cause("not started", f"its job ended as {job.state}{where} before the task began")
    if log and killed_for_memory(Path(log)):
        return cause("out of memory", f"Slurm killed it for its memory limit{where}")
    state = f"Slurm says {job.state}{where}" if job is not None else f"killed{where}"
    return cause("killed", f"{state}, and it left no word (killed, perhaps for want of memory)")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to try again, and how."""

    retry: bool
    why: str
    halve: bool = False
    avoid: str = ""


def decide(cause: Cause, earlier: Sequence[Verdict], attempts: int) -> Decision:
    """Weigh a cause against what a task has been through.

    Parameters
    ----------
    earlier
        Verdicts on the attempts before this one.
    attempts
        The profile's ceiling of counted ones.
    """
    rule = cause.rule
    if rule.retry is False:
        return Decision(False, cause.text)
    if rule.retry == "progress" and not cause.progressed:
        return Decision(False, f"{cause.text}, no further than the attempt before; raise the profile's minutes")
    counted = rule.counted + sum(verdict.counted for verdict in earlier)
    if rule.counted and counted >= attempts:
        return Decision(False, f"{cause.text}; that was attempt {counted} of {attempts}")
    if len(earlier) + 1 >= MOST_ATTEMPTS:
        return Decision(False, f"{cause.text}; attempt {len(earlier) + 1} in all")
    # Out of memory the kernel kills without a word: believe it the second time.
    again = cause.kind == "killed" and any(verdict.kind == "killed" for verdict in earlier)
    return Decision(True, cause.text, rule.halve or again, cause.node if rule.avoid else "")
