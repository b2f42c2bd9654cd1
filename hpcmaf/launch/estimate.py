"""How long a run still takes, judged by a sample of what it has done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import DataError
from hpcmaf.files.publish import Count, Record, read_json
from hpcmaf.run.attempts import all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

# Opening thousands of markers would take longer than anybody waits.
_MARKERS_PER_KIND, _RUNNING_PER_STAGE = 8, 16


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time left.

    Attributes
    ----------
    seconds
        Without the time that jobs wait in a queue; ``None`` when nothing of
        the kinds of stages that are left has been done yet.
    whole
        Whether every kind that is left is in it; else it is a lower bound.
    stages
        Seconds by id, of stages that are under way or to come.
    """

    seconds: float | None
    whole: bool
    stages: Mapping[str, float]

    def __str__(self) -> str:
        if self.seconds is None:
            return "time left unknown"
        return f"{'about' if self.whole else 'at least'} {clock(self.seconds)} left"


def estimate(
    run: RunDir,
    plan: Plan,
    profile: Profile,
    done: Mapping[str, set[str]],
    running: Mapping[str, Sequence[str]],
    started: Mapping[tuple[str, str], float] = MappingProxyType({}),
) -> Estimate:
    """Time left, stage after stage as they wait for each other.

    A task is taken to need what others of its kind needed (their markers have
    it), less what its own progress file has as done. As many run side by side as
    do now, or as the profile lets.

    Parameters
    ----------
    done, running
        Tasks by stage id.
    started
        When running tasks began, where the caller knows; else taken from their
        attempts.
    """
    paces = {kind: _pace(run, plan, done, kind) for kind in {stage.kind for stage in plan.stages}}
    ends: dict[str, float] = {}
    stages: dict[str, float] = {}
    whole = True
    for stage in plan.stages:
        left, seconds = len(stage.tasks) - len(done[stage.id]), 0.0
        if left:
            now = running.get(stage.id, ())
            shares = {task: _share(run, stage, task) for task in now[:_RUNNING_PER_STAGE]}
            mean, width = paces[stage.kind]
            width = _width(stage, profile, len(now), width)
            if mean is None:
                mean = _guess(run, stage, shares, started)
            if mean is None or width is None:
                whole = False
            if mean is not None:
                # Where a task has not reported yet, as while it loads its model, the clock has to do.
                waited = {task: time.time() - started.get((stage.id, task), time.time()) for task in shares}
                rest = [mean - (mean * share or min(waited[task], 0.9 * mean)) for task, share in shares.items()]
                # Work shared evenly, but no task is done sooner than the slowest that runs.
                work = mean * max(0, left - len(rest)) + sum(rest)
                longest = mean if left > len(rest) else max(rest, default=0.0)
                seconds = stages[stage.id] = max(work / max(1, min(width or left, left)), longest)
        ends[stage.id] = seconds + max((ends[id] for id in stage.after), default=0.0)
    # One machine's slots are shared by all stages.
    total = sum(stages.values()) if profile.launcher == "local" else max(ends.values())
    return Estimate(total if stages or whole else None, whole, stages)


def _pace(run: RunDir, plan: Plan, done: Mapping[str, set[str]], kind: str) -> tuple[float | None, int | None]:
    """Mean seconds of a kind of task and how many ran side by side, of an even sample of the latest iteration's."""
    stage = next((stage for stage in reversed(plan.stages) if stage.kind == kind and done[stage.id]), None)
    if stage is None:
        return None, None
    finished = sorted(done[stage.id])
    seconds, ends = [], []
    for task in finished[:: max(1, len(finished) // _MARKERS_PER_KIND)][:_MARKERS_PER_KIND]:
        try:
            seconds.append(sum(row["wall_seconds"] for row in run.read_marker(stage, task)["ledger"]))
            ends.append(run.marker(stage, task).stat().st_mtime)
        except (DataError, OSError):
            continue  # damaged, or removed this moment, which 'hpcmaf verify' reports
    if not ends:
        return None, None
    mean = sum(seconds) / len(seconds)
    span = max(ends) - min(end - spent for end, spent in zip(ends, seconds, strict=False))
    return mean, max(1, round(mean * len(finished) / max(span, 1.0)))


def _width(stage: Stage, profile: Profile, running: int, before: int | None) -> int | None:
    """Tasks of a stage that run side by side; ``None`` where it is not known."""
    if profile.launcher == "local":
        return profile.slots()
    if running or len(stage.tasks) == 1:
        return running or 1
    ceiling = profile.cluster.resources(stage.spec.resources).at_once
    return ceiling if before is None else min(before, ceiling or before)


def _guess(
    run: RunDir, stage: Stage, shares: Mapping[str, float], started: Mapping[tuple[str, str], float]
) -> float | None:
    """Seconds of a whole task, where none is done yet but some are far enough to tell."""
    known = []
    for task, share in shares.items():
        if share > 0.02:
            attempts = all_attempts(run.attempts(stage, task))
            began = started.get((stage.id, task)) or (attempts and attempts[-1].facts.get("started"))
            if began:
                known.append((time.time() - began) / share)
    return sum(known) / len(known) if known else None


def _share(run: RunDir, stage: Stage, task: str) -> float:
    """How much of a running task is done."""
    value = read_progress(run, stage, task)
    return min(1.0, value["done"] / value["total"]) if value and value["total"] else 0.0


class _Progress(Record):
    done: Count
    total: Count
    unit: str = ""
    note: str = ""


def read_progress(run: RunDir, stage: Stage, task: str) -> dict[str, Any] | None:
    """What a running task reports: ``done``, ``total``, ``unit`` and ``note``."""
    try:
        return read_json(run.progress(stage, task), _Progress)
    except (OSError, DataError):
        return None
