"""What is happening: live bars in a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Collection
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hpcmaf.config.profile import Profile
from hpcmaf.launch.estimate import clock, estimate, read_progress
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey

LOG_INTERVAL_SECONDS = 30.0
_ESTIMATE_INTERVAL_SECONDS = 2.0
_ALL = ("", "")


class Watcher:
    """Shows a run's progress.

    Parameters
    ----------
    run, plan, profile
        What runs, and how much of it at once.
    console
        A terminal gets bars, anything else a line per event.
    among
        Whether it is one of several runs: lines begin with its name, and
        bars and time left are for whoever sees them all.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, console: Console, *, among: bool = False) -> None:
        self.run, self.plan, self.profile = run, plan, profile
        self.console, self.among = console, among
        self._total = sum(len(stage.tasks) for stage in plan.stages)
        self._done: dict[str, set[str]] = {stage.id: set() for stage in plan.stages}
        self._bars: Progress | None = None
        self._rows: dict[TaskKey, TaskID] = {}
        self._last_line = time.monotonic()
        self._left, self._estimated = "", 0.0

    def __enter__(self) -> Watcher:
        self._done = self.run.done_tasks(self.plan)
        if self.console.is_terminal and not self.among:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            note = TextColumn("{task.fields[note]}")
            self._bars = Progress(*columns, note, TimeElapsedColumn(), console=self.console)
            self._rows[_ALL] = self._bars.add_task("all tasks", total=self._total, note="")
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bars where there are any."""
        name = f"{self.run.root.name}: " if self.among else ""
        line = f"{time.strftime('%H:%M:%S')} {name}{line}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def started(self, stage: Stage, task: str) -> None:
        """A task was started."""
        if self._bars:
            self._rows[stage.id, task] = self._bars.add_task(f"  {stage.id} {task}", total=None, note="starting")

    def finished(self, stage: Stage, task: str, seconds: float) -> None:
        """A task is done."""
        self._done[stage.id].add(task)
        if self._bars and (row := self._rows.pop((stage.id, task), None)) is not None:
            self._bars.remove_task(row)
        self._estimated = 0.0
        name = stage.id if task == "all" else f"{stage.id} {task}"
        left = "" if self.among else f", {self._time_left(())}"
        self.say(f"{name} done in {clock(seconds)} ({self._count()}/{self._total} tasks{left})")

    def look(self, running: Collection[TaskKey]) -> None:
        """Refresh; called several times a second with the tasks that run."""
        if self._bars:
            for ended in self._rows.keys() - set(running) - {_ALL}:
                self._bars.remove_task(self._rows.pop(ended))
            self._bars.update(self._rows[_ALL], completed=self._count(), note=self._time_left(running))
            for id, task in self._rows.keys() - {_ALL}:
                if (value := read_progress(self.run, self.plan.stage(id), task)) is not None:
                    note, row = value.get("note") or value["unit"], self._rows[id, task]
                    self._bars.update(row, completed=value["done"], total=value["total"], note=note)
        elif running and not self.among and time.monotonic() - self._last_line > LOG_INTERVAL_SECONDS:
            parts = []
            for id, task in running:
                value = read_progress(self.run, self.plan.stage(id), task)
                note = f" ({value['note']})" if value and value.get("note") else ""
                parts.append(f"{id} {task}" + (f" {value['done']}/{value['total']}{note}" if value else ""))
            self.say(f"running: {', '.join(parts)} ({self._time_left(running)})")

    def _count(self) -> int:
        return sum(map(len, self._done.values()))

    def _time_left(self, running: Collection[TaskKey]) -> str:
        now = time.monotonic()
        if now - self._estimated > _ESTIMATE_INTERVAL_SECONDS:
            tasks: dict[str, list[str]] = {}
            for id, task in running:
                tasks.setdefault(id, []).append(task)
            self._left = str(estimate(self.run, self.plan, self.profile, self._done, tasks))
            self._estimated = now
        return self._left
