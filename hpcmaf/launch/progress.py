"""What is happening: a live bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Collection

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from hpcmaf.config.profile import Profile
from hpcmaf.launch.estimate import clock, estimate, read_progress
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey

LOG_INTERVAL_SECONDS = 30.0
_ESTIMATE_INTERVAL_SECONDS = 2.0


class Watcher:
    """Shows a run's progress.

    Parameters
    ----------
    run, plan, profile
        What runs, and how much of it at once.
    console
        A terminal gets a bar, anything else a line per event.
    among
        Whether it is one of several runs: lines begin with its name, and
        bar and time left are for whoever sees them all.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, console: Console, *, among: bool = False) -> None:
        self.run, self.plan, self.profile = run, plan, profile
        self.console, self.among = console, among
        self._done: dict[str, set[str]] = {stage.id: set() for stage in plan.stages}
        self._bar: Progress | None = None
        self._last_line = time.monotonic()
        self._left, self._estimated = "", 0.0

    def __enter__(self) -> Watcher:
        self._done = self.run.done_tasks(self.plan)
        if self.console.is_terminal and not self.among:
            rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
            note = TextColumn("{task.fields[note]}", markup=False, table_column=rest)
            columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), note)
            self._bar = Progress(*columns, console=self.console, expand=True)
            self._row = self._bar.add_task("", total=self._total(), note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        name = f"{self.run.root.name}: " if self.among else ""
        line = f"{time.strftime('%H:%M:%S')} {name}{line}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def finished(self, stage: Stage, task: str, seconds: float) -> None:
        """A task is done."""
        self._done[stage.id].add(task)
        self._estimated = 0.0
        name = stage.id if task == "all" else f"{stage.id} {task}"
        left = "" if self.among else f", {self._time_left(())}"
        self.say(f"{name} done in {clock(seconds)} ({self._count()}/{self._total()} tasks{left})")

    def look(self, running: Collection[TaskKey]) -> None:
        """Refresh; called several times a second with the tasks that run."""
        if self._bar:
            note = f"{self._time_left(running)}; {self._progress(running)}"
            self._bar.update(self._row, completed=self._count(), total=self._total(), note=note)
        elif running and not self.among and time.monotonic() - self._last_line > LOG_INTERVAL_SECONDS:
            self.say(f"running: {self._progress(running)} ({self._time_left(running)})")

    def _progress(self, running: Collection[TaskKey]) -> str:
        parts = []
        for id, task in running:
            value = read_progress(self.run, self.plan.stage(id), task)
            note = f" ({value['note']})" if value and value.get("note") else ""
            parts.append(f"{id} {task}" + (f" {value['done']}/{value['total']}{note}" if value else ""))
        return ", ".join(parts)

    def _total(self) -> int:
        return sum(len(stage.tasks) for stage in self.plan.stages)

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
