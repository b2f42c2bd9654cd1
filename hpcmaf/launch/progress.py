"""What is happening, a line per event."""

from __future__ import annotations

import time
from collections.abc import Collection

from rich.console import Console

from hpcmaf.config.profile import Profile
from hpcmaf.launch.estimate import clock, estimate, read_progress
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey

INTERVAL_SECONDS = 30.0


class Watcher:
    """Shows a run's progress.

    Parameters
    ----------
    run, plan, profile
        What runs, and how much of it at once.
    prefix
        What lines begin with, in a study the run's name.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, console: Console, prefix: str = "") -> None:
        self.run, self.plan, self.profile = run, plan, profile
        self.console, self.prefix = console, prefix
        self._last_line = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line."""
        line = f"{time.strftime('%H:%M:%S')} {self.prefix}{line}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
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
