"""How long a run still takes, judged by a sample of what it has done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
    run: RunDir, plan: Plan, profile: Profile, done: Mapping[str, set[str]], running: Mapping[str, Sequence[str]]
) -> Estimate:
    """Time left, stage after stage as they wait for each other.

    A task is taken to need what others of its kind needed (their markers have
    it), less what its own progress file has as done. As many run side by side as
    do now, or as the profile lets.

    Parameters
    ----------
    done, running
        Tasks by stage id.
    """
    means = {kind: _mean_seconds(run, plan, done, kind) for kind in {stage.kind for stage in plan.stages}}
    ends: dict[str, float] = {}
    stages: dict[str, float] = {}
    whole = True
    for stage in plan.stages:
        left, seconds = len(stage.tasks) - len(done[stage.id]), 0.0
        if left:
            now = running.get(stage.id, ())
            parts = [_progress(run, stage, task) for task in now[:_RUNNING_PER_STAGE]]
            mean, width = means[stage.kind] or _extrapolated(parts), _width(stage, profile, len(now))
            whole = whole and mean is not None and width is not None
            if mean is not None:
                # Where a task has not reported yet, as while it loads its model, the clock has to do.
                rest = [mean - (mean * share or min(spent, 0.9 * mean)) for share, spent in parts]
                # Work shared evenly, but no task is done sooner than the slowest that runs.
                work = mean * max(0, left - len(rest)) + sum(rest)
                longest = mean if left > len(rest) else max(rest, default=0.0)
                seconds = stages[stage.id] = max(work / max(1, min(width or left, left)), longest)
        ends[stage.id] = seconds + max((ends[id] for id in stage.after), default=0.0)
    # One machine's slots are shared by all stages.
    total = sum(stages.values()) if profile.launcher == "local" else max(ends.values())
    return Estimate(total if stages or whole else None, whole, stages)


def _mean_seconds(run: RunDir, plan: Plan, done: Mapping[str, set[str]], kind: str) -> float | None:
    """Of an even sample of the tasks of a kind that are done, in its latest iteration."""
    stage = next((stage for stage in reversed(plan.stages) if stage.kind == kind and done[stage.id]), None)
    finished = sorted(done[stage.id]) if stage else []
    seconds = []
    for task in finished[:: max(1, len(finished) // _MARKERS_PER_KIND)][:_MARKERS_PER_KIND]:
        with suppress(DataError, OSError):  # damaged, or removed this moment, which 'hpcmaf verify' reports
            seconds.append(sum(row["wall_seconds"] for row in run.read_marker(stage, task)["ledger"]))
    return sum(seconds) / len(seconds) if seconds else None


def _extrapolated(parts: Sequence[tuple[float, float]]) -> float | None:
    """Seconds of a whole task, where none is done yet but some are far enough to tell."""
    known = [spent / share for share, spent in parts if share > 0.02 and spent]
    return sum(known) / len(known) if known else None


def _width(stage: Stage, profile: Profile, running: int) -> int | None:
    """Tasks of a stage that run side by side; ``None`` where it is not known."""
    if profile.launcher == "local":
        return profile.slots()
    if running or len(stage.tasks) == 1:
        return running or 1
    return profile.cluster.resources(stage.spec.resources).at_once


def _progress(run: RunDir, stage: Stage, task: str) -> tuple[float, float]:
    """How much of a running task is done, and for how many seconds it has run."""
    value = read_progress(run, stage, task)
    share = min(1.0, value["done"] / value["total"]) if value and value["total"] else 0.0
    attempts = all_attempts(run.attempts(stage, task))
    began = attempts[-1].facts.get("started") if attempts else None
    return share, max(0.0, time.time() - began) if began else 0.0


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
