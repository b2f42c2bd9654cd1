"""What is happening: live bars in a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hpcmaf.launch.estimate import read_progress
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

LOG_INTERVAL_SECONDS = 30.0


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Watcher:
    """Shows a run's progress.

    Parameters
    ----------
    run, plan
        What is run.
    slots
        Tasks side by side, for the estimate of the time left.
    console
        A terminal gets bars, anything else a line per event.
    among
        Whether it is one of several runs: lines begin with its name, and
        bars are left to whoever sees them all.
    """

    def __init__(self, run: RunDir, plan: Plan, slots: int, console: Console, *, among: bool = False) -> None:
        self.run = run
        self.plan = plan
        self.slots = slots
        self.console = console
        self.among = among
        self._total = sum(len(stage.tasks) for stage in plan.stages)
        # By kind of stage: tasks left, tasks done and the seconds they took.
        self._left: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._bars: Progress | None = None
        self._overall: TaskID | None = None
        self._rows: dict[tuple[str, str], TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Watcher:
        for stage in self.plan.stages:
            for task in stage.tasks:
                if self.run.done(stage, task):
                    spent = sum(row["wall_seconds"] for row in self.run.read_marker(stage, task)["ledger"])
                    self._count(stage.kind, spent)
                else:
                    self._left[stage.kind] += 1
        if self.console.is_terminal and not self.among:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bars = Progress(
                *columns, TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=self.console
            )
            self._overall = self._bars.add_task("all tasks", total=self._total, note="")
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bars where there are any."""
        stamp = time.strftime("%H:%M:%S")
        line = f"{self.run.root.name}: {line}" if self.among else line
        self.console.print(f"{stamp} {line}", highlight=False, markup=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def started(self, stage: Stage, task: str) -> None:
        """A task was started."""
        if self._bars:
            self._rows[stage.id, task] = self._bars.add_task(f"  {stage.id} {task}", total=None, note="starting")

    def finished(self, stage: Stage, task: str, seconds: float) -> None:
        """A task is done."""
        self._count(stage.kind, seconds)
        self._left[stage.kind] -= 1
        if self._bars and (row := self._rows.pop((stage.id, task), None)) is not None:
            self._bars.remove_task(row)
        name = stage.id if task == "all" else f"{stage.id} {task}"
        left = self._left.total()
        # Beside other runs, how long this one takes is not for it to say.
        rest = "" if self.among else f", {self._estimate({})} left"
        self.say(f"{name} done in {clock(seconds)} ({self._total - left}/{self._total} tasks{rest})")

    def look(self, running: Mapping[tuple[str, str], float]) -> None:
        """Refresh; called several times a second.

        Parameters
        ----------
        running
            ``(stage id, task)`` to the monotonic time it was started.
        """
        now = time.monotonic()
        elapsed = {key: now - since for key, since in running.items()}
        if self._bars and self._overall is not None:
            for gone in self._rows.keys() - running.keys():
                self._bars.remove_task(self._rows.pop(gone))
            self._bars.update(
                self._overall, completed=self._total - self._left.total(), note=f"{self._estimate(elapsed)} left"
            )
            for (stage, task), row in self._rows.items():
                if (progress := self._progress(stage, task)) is not None:
                    note = progress.get("note") or progress["unit"]
                    self._bars.update(row, completed=progress["done"], total=progress["total"], note=note)
        elif running and not self.among and now - self._last_line > LOG_INTERVAL_SECONDS:
            parts = []
            for stage, task in running:
                progress = self._progress(stage, task)
                note = f" ({progress['note']})" if progress and progress.get("note") else ""
                parts.append(f"{stage} {task}" + (f" {progress['done']}/{progress['total']}{note}" if progress else ""))
            self.say(f"running: {', '.join(parts)} ({self._estimate(elapsed)} left)")

    def _progress(self, stage_id: str, task: str) -> dict[str, Any] | None:
        return read_progress(self.run, self.plan.stage(stage_id), task)

    def _count(self, kind: str, seconds: float) -> None:
        self._done[kind] += 1
        self._seconds[kind] += seconds

    def _estimate(self, elapsed: Mapping[tuple[str, str], float]) -> str:
        """Time left, from the mean time of tasks of the same kind, or from how far the first ones are."""
        left = {kind: count for kind, count in self._left.items() if count}
        means = {kind: self._seconds[kind] / self._done[kind] for kind in left if self._done[kind]}
        for (stage, task), seconds in elapsed.items():
            kind, progress = self.plan.stage(stage).kind, self._progress(stage, task)
            if kind not in means and progress and progress["done"]:
                means[kind] = seconds * progress["total"] / progress["done"]
        known = [kind for kind in left if kind in means]
        seconds = sum(left[kind] * means[kind] for kind in known)
        seconds = max(0.0, seconds - sum(elapsed.values())) / self.slots
        if not known:
            return "time unknown" if left else "0:00"
        return ("about " if len(known) == len(left) else "at least ") + clock(seconds)
