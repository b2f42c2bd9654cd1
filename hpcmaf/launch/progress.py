"""How far a run is, how long it still takes, and a line per event for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

from hpcmaf.config.profile import Profile
from hpcmaf.errors import DataError
from hpcmaf.files.publish import Count, Record, read_json
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey

INTERVAL_SECONDS = 30.0
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
        Without the time that jobs wait in a queue; ``None`` when nothing of the kinds of stages that are left has been
        done yet.
    whole
        Whether every kind that is left is in it; else it is a lower bound.
    """

    seconds: float | None
    whole: bool

    def __str__(self) -> str:
        if self.seconds is None:
            return "time left unknown"
        return f"{'about' if self.whole else 'at least'} {clock(self.seconds)} left"


def estimate(
    run: RunDir, plan: Plan, profile: Profile, done: Mapping[str, set[str]], running: Mapping[str, Sequence[str]]
) -> Estimate:
    """Time left, stage after stage as they wait for each other.

    A task is taken to need what others of its kind needed (their markers have it), less what its own progress file has
    as done. As many run side by side as do now, or as the profile lets.

    Parameters
    ----------
    done, running
        Tasks by stage id.
    """
    means = {kind: _mean_seconds(run, plan, done, kind) for kind in {stage.kind for stage in plan.stages}}
    ends: dict[str, float] = {}
    work, missing = 0.0, 0
    local = profile.launcher == "local"
    for stage in plan.stages:
        left, mean, seconds = len(stage.tasks) - len(done[stage.id]), means[stage.kind], 0.0
        if left and mean is not None:
            now = running.get(stage.id, ())
            width = profile.slots() if local else len(now) or profile.cluster.resources(stage.spec.resources).at_once
            reports = (read_progress(run, stage, task) for task in now[:_RUNNING_PER_STAGE])
            shares = (min(1.0, found["done"] / found["total"]) for found in reports if found and found["total"])
            seconds = mean * max(0.0, left - sum(shares)) / min(width or left, left)
        missing += bool(left) and mean is None
        work += seconds
        ends[stage.id] = seconds + max((ends[id] for id in stage.after), default=0.0)
    # One machine's slots are shared by all stages; on a cluster evaluation runs beside the next debates.
    total = work if local else max(ends.values())
    return Estimate(total if total or not missing else None, not missing)


def _mean_seconds(run: RunDir, plan: Plan, done: Mapping[str, set[str]], kind: str) -> float | None:
    """Of an even sample of the tasks of a kind that are done, in its latest iteration."""
    stage = next((stage for stage in reversed(plan.stages) if stage.kind == kind and done[stage.id]), None)
    finished = sorted(done[stage.id]) if stage else []
    seconds = []
    for task in finished[:: max(1, len(finished) // _MARKERS_PER_KIND)][:_MARKERS_PER_KIND]:
        with suppress(DataError, OSError):  # damaged, or removed this moment, which 'hpcmaf verify' reports
            seconds.append(sum(row["wall_seconds"] for row in run.read_marker(stage, task)["ledger"]))
    return sum(seconds) / len(seconds) if seconds else None


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


class Watcher:
    """Shows a run's progress.

    Parameters
    ----------
    run, plan, profile
        What runs, and how much of it at once.
    prefix
        What lines begin with, in a study the run's name.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, file: TextIO, prefix: str = "") -> None:
        self.run, self.plan, self.profile, self.file, self.prefix = run, plan, profile, file, prefix
        self._last_line = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line."""
        print(f"{time.strftime('%H:%M:%S')} {self.prefix}{line}", file=self.file, flush=True)
        self._last_line = time.monotonic()

    def finished(self, stage: Stage, task: str, seconds: float) -> None:
        """A task is done."""
        name = stage.id if task == "all" else f"{stage.id} {task}"
        done = sum(map(len, self.run.done_tasks(self.plan).values()))
        total = sum(len(stage.tasks) for stage in self.plan.stages)
        self.say(f"{name} done in {clock(seconds)} ({done}/{total} tasks, {self._time_left(())})")

    def look(self, running: Collection[TaskKey]) -> None:
        """Say what runs, where nothing has been said for a while."""
        if running and time.monotonic() - self._last_line > INTERVAL_SECONDS:
            self.say(f"running: {', '.join(map(self._progress, running))} ({self._time_left(running)})")

    def _progress(self, key: TaskKey) -> str:
        id, task = key
        value = read_progress(self.run, self.plan.stage(id), task)
        note = f" ({value['note']})" if value and value.get("note") else ""
        return f"{id} {task}" + (f" {value['done']}/{value['total']}{note}" if value else "")

    def _time_left(self, running: Collection[TaskKey]) -> str:
        tasks: dict[str, list[str]] = {}
        for id, task in running:
            tasks.setdefault(id, []).append(task)
        return str(estimate(self.run, self.plan, self.profile, self.run.done_tasks(self.plan), tasks))
