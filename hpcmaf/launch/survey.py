"""Where every task of a run is, seen from outside: nothing is written, no lock is taken.

What follows is of runs on one machine; :mod:`hpcmaf.launch.slurm.survey` is
of those on a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hpcmaf.config.profile import Profile
from hpcmaf.files.locking import held_locks
from hpcmaf.run.attempts import Attempt, all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, stage_id

TaskKey = tuple[str, str]

State = Literal["done", "running", "queued", "stopped", "stalled", "unknown"]

# Ends of an attempt that say nothing against its task.
_INTERRUPTIONS = frozenset({"KeyboardInterrupt", "Interrupted", "StopRequested", "RunBusyError", "SystemExit"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A task whose last attempt failed.

    Attributes
    ----------
    kind
        Such as ``error`` or ``time limit``; see :mod:`hpcmaf.launch.slurm.causes`.
    log
        Where to read on; empty when there is none.
    again
        Whether the chain gives it another attempt by itself.
    """

    stage: str
    task: str
    kind: str
    text: str
    log: str = ""
    node: str = ""
    again: bool = False


@dataclass
class Survey:
    """Where every task is.

    Attributes
    ----------
    done, running, pending
        Tasks by stage id; pending ones wait in Slurm's queue.
    failures
        What failed and is neither queued nor running again.
    state, why
        Of the run as a whole; ``why`` is one line, empty for ``done``.
    gates
        Job ids of the gates that are queued or running.
    stopped
        Content of the reason file.
    notes
        What could not be found out, and what looks odd.
    refusal
        Slurm's words, where it refused the last job that was to be submitted.
    """

    done: Mapping[str, set[str]]
    running: dict[str, list[str]] = field(default_factory=dict)
    pending: dict[str, list[str]] = field(default_factory=dict)
    failures: dict[TaskKey, Failure] = field(default_factory=dict)
    state: State = "unknown"
    why: str = ""
    gates: list[str] = field(default_factory=list)
    stopped: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    refusal: str = ""

    def left(self, stage: Stage) -> list[str]:
        """Tasks of a stage that are not done."""
        done = self.done[stage.id]
        return [task for task in stage.tasks if task not in done]


def survey(run: RunDir, plan: Plan, profile: Profile) -> Survey:
    """Look at a run, wherever it runs.

    Slurm is asked only of runs on a cluster, and need not answer.
    """
    if profile.launcher == "slurm":
        from hpcmaf.launch.slurm.survey import survey_cluster

        return survey_cluster(run, plan, profile)
    return survey_local(run, plan, profile)


def begun_tasks(run: RunDir, plan: Plan) -> set[TaskKey]:
    """Tasks that were ever attempted: one listing per iteration, whatever their number."""
    folders = {stage.iteration: run.attempts(stage, "").parent for stage in plan.stages}
    begun = set()
    for t, folder in folders.items():
        for name in os.listdir(folder) if folder.is_dir() else ():
            kind, _, task = name.partition(".")
            begun.add((stage_id(t, kind), task))
    return begun


def unfinished(plan: Plan, done: Mapping[str, set[str]]) -> Iterator[tuple[Stage, str]]:
    """Every task that is not done, in the plan's order."""
    for stage in plan.stages:
        for task in stage.tasks:
            if task not in done[stage.id]:
                yield stage, task


def driver(run: RunDir) -> int | None:
    """Process on this machine that holds the run (``RunDir.drive``), if any."""
    return _holder(run.driver_lock, held_locks())


def survey_local(run: RunDir, plan: Plan, profile: Profile) -> Survey:
    """Look at a run of the local launcher.

    Only this machine's processes are seen: watched from another one, a run
    that goes on looks as if nobody drove it.
    """
    result = Survey(run.done_tasks(plan))
    held, begun = held_locks(), begun_tasks(run, plan)
    left = list(unfinished(plan, result.done))
    for stage, task in left:
        if (stage.id, task) not in begun:
            continue
        folder = run.attempts(stage, task)
        if held and _holder(folder / "lock", held) is not None:
            result.running.setdefault(stage.id, []).append(task)
        elif failure := _failure(stage, task, all_attempts(folder), profile.attempts):
            result.failures[stage.id, task] = failure
    pid = _holder(run.driver_lock, held)
    if not left:
        result.state = "done"
    elif pid is not None:
        result.state, result.why = "running", f"driven by process {pid}"
    elif result.failures:
        result.state, result.why = "stopped", f"{len(result.failures)} task(s) failed"
    elif result.running:
        result.state, result.why = "stalled", "what runs will end, but no 'hpcmaf submit' drives the run"
    else:
        result.state, result.why = "stalled", "no 'hpcmaf submit' on this machine drives the run"
    return result


def _holder(path: os.PathLike[str], held: Mapping[int, int]) -> int | None:
    try:
        return held.get(os.stat(path).st_ino)
    except FileNotFoundError:
        return None


def _failure(stage: Stage, task: str, attempts: list[Attempt], ceiling: int) -> Failure | None:
    if not attempts:
        return None
    last = attempts[-1]
    log = str(newest_log(last) or "")
    if last.cause is not None:
        if last.cause.get("type") in _INTERRUPTIONS:
            return None
        return Failure(stage.id, task, "error", str(last.cause.get("message", "")), log)
    # Without a word: killed, or interrupted together with its driver.
    wordless = 0
    for attempt in reversed(attempts):
        if attempt.cause is not None:
            break
        wordless += 1
    if wordless < ceiling:
        return None
    return Failure(stage.id, task, "killed", f"killed {wordless} times (out of memory, or disk full?)", log)


def newest_log(attempt: Attempt) -> str | None:
    """Path of an attempt's standard error."""
    if attempt.facts.get("log"):
        return str(attempt.facts["log"])
    found = sorted(attempt.folder.glob("*_log.err"), key=lambda path: path.stat().st_mtime)
    return str(found[-1]) if found else None
