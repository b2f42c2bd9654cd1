"""How long a run still takes, told from a sample of what it has done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import DataError
from hpcmaf.files.publish import Count, Record, read_json
from hpcmaf.launch.survey import Survey
from hpcmaf.run.attempts import all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

# Opening thousands of markers would take longer than anybody waits.
_MARKERS_PER_KIND, _RUNNING_PER_STAGE = 8, 16


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


def estimate(run: RunDir, plan: Plan, profile: Profile, survey: Survey) -> Estimate:
    """Time left, stage after stage as they wait for each other.

    A task is taken to need what others of its kind needed (their markers say),
    less what its own progress says is done. As many run side by side as do
    now, or as the profile lets.
    """
    paces = {kind: _pace(run, plan, survey, kind) for kind in {stage.kind for stage in plan.stages}}
    ends: dict[str, float] = {}
    stages: dict[str, float] = {}
    whole = True
    for stage in plan.stages:
        pace, left, seconds = paces[stage.kind], len(survey.left(stage)), 0.0
        if left:
            shares = _shares(run, stage, survey.running.get(stage.id, ()))
            mean = pace.seconds if pace.seconds is not None else _guess(shares)
            width = _width(stage, survey, profile, pace)
            if mean is None or width is None:
                whole = False
            if mean is not None:
                seconds = stages[stage.id] = _stage_seconds(mean, left, shares, width or left)
        ends[stage.id] = seconds + max((ends[id] for id in stage.after), default=0.0)
    # One machine's places are shared by all stages.
    total = sum(stages.values()) if profile.launcher == "local" else max(ends.values())
    return Estimate(total if stages or whole else None, whole, stages)


@dataclass(frozen=True, slots=True)
class _Pace:
    """Mean seconds of a kind of task, and how many ran side by side; ``None`` where none is done."""

    seconds: float | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class _Share:
    """How much of one running task is done, and how long it has taken."""

    done: float
    elapsed: float | None


def _finished(plan: Plan, survey: Survey, kind: str) -> list[tuple[Stage, str]]:
    """An even sample of the finished tasks of a kind, the latest iteration's where there are any."""
    for stage in reversed(plan.stages):
        if stage.kind == kind and (done := sorted(survey.done[stage.id])):
            step = max(1, len(done) // _MARKERS_PER_KIND)
            return [(stage, task) for task in done[::step][:_MARKERS_PER_KIND]]
    return []


def _pace(run: RunDir, plan: Plan, survey: Survey, kind: str) -> _Pace:
    seconds, ends = [], []
    sample = _finished(plan, survey, kind)
    for stage, task in sample:
        try:
            ledger = run.read_marker(stage, task)["ledger"]
            seconds.append(sum(row["wall_seconds"] for row in ledger))
            ends.append(run.marker(stage, task).stat().st_mtime)
        except (DataError, OSError):
            continue  # damaged, or gone this moment: 'hpcmaf verify' is the one to say so
    if not seconds:
        return _Pace()
    mean = sum(seconds) / len(seconds)
    span = max(ends) - min(end - spent for end, spent in zip(ends, seconds, strict=True))
    return _Pace(mean, max(1, round(mean * len(survey.done[sample[0][0].id]) / max(span, 1.0))))


def _shares(run: RunDir, stage: Stage, tasks: Sequence[str]) -> list[_Share]:
    """Of the first few running tasks; the others are taken to have just begun."""
    shares = []
    for task in tasks[:_RUNNING_PER_STAGE]:
        done, elapsed = _done(run, stage, task), None
        if done:
            attempts = all_attempts(run.attempts(stage, task))
            started = attempts[-1].facts.get("started") if attempts else None
            elapsed = time.time() - float(started) if started else None
        shares.append(_Share(done, elapsed))
    return shares


def _done(run: RunDir, stage: Stage, task: str) -> float:
    value: Any = read_progress(run, stage, task)
    return min(1.0, value["done"] / value["total"]) if value and value["total"] else 0.0


class _Progress(Record):
    done: Count
    total: Count
    unit: str = ""


def read_progress(run: RunDir, stage: Stage, task: str) -> dict[str, Any] | None:
    """What a running task says of itself: ``done``, ``total`` and ``unit``."""
    try:
        return read_json(run.progress(stage, task), _Progress)
    except (OSError, DataError):
        return None


def _guess(shares: Sequence[_Share]) -> float | None:
    """Seconds of a whole task, where none is done yet but some are far enough to tell."""
    known = [share.elapsed / share.done for share in shares if share.elapsed and share.done > 0.02]
    return sum(known) / len(known) if known else None


def _stage_seconds(mean: float, left: int, shares: Sequence[_Share], width: int) -> float:
    running = [mean * (1 - share.done) for share in shares]
    # Work shared evenly, but no task is done sooner than the slowest that runs.
    work = mean * max(0, left - len(running)) + sum(running)
    longest = mean if left > len(running) else max(running, default=0.0)
    return max(work / max(1, min(width, left)), longest)


def _width(stage: Stage, survey: Survey, profile: Profile, pace: _Pace) -> int | None:
    """Tasks of a stage that run side by side; ``None`` where nothing tells."""
    if profile.launcher == "local":
        return profile.slots()
    if now := len(survey.running.get(stage.id, ())):
        return now
    if len(stage.tasks) == 1:
        return 1
    ceiling = profile.cluster.resources(stage.kind).at_once
    if pace.width is not None:
        return min(pace.width, ceiling or pace.width)
    return ceiling
