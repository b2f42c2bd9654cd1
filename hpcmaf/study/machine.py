"""Runs of a study side by side on one machine, over one set of slots."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hpcmaf.config.profile import Profile
from hpcmaf.launch.estimate import clock
from hpcmaf.launch.machine import Machine
from hpcmaf.launch.progress import Watcher
from hpcmaf.run.directory import RunDir
from hpcmaf.study.sharing import Planned

# Without bars, how often to say how far the study is.
_SAY_SECONDS = 60.0


class StudyMachine(Machine):
    """A machine for all runs of a study, which says how far they are together.

    Parameters
    ----------
    console
        A terminal gets a bar, anything else a line now and then.
    """

    def __init__(self, profile: Profile, planned: Sequence[Planned], console: Console) -> None:
        super().__init__(profile, planned[0].run.root)
        self._roots: list[RunDir] = [one.run for one in planned]
        self._tasks = sum(len(stage.tasks) for one in planned for stage in one.plan.stages)
        self._began = self._said = time.monotonic()
        self._before = self._done()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        note = TextColumn("{task.fields[note]}")
        self._bar = Progress(*columns, note, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
        self._row = self._bar.add_task("all runs", total=self._tasks, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return super().__enter__()

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        self._bar.stop()

    def begin(self, planned: Planned) -> None:
        """Start a run."""
        watcher = Watcher(planned.run, planned.plan, self.profile, self._bar.console, among=True)
        self.start(planned.run, planned.plan, watcher)

    def show(self) -> None:
        """Tell now and then how far the study is."""
        now = time.monotonic()
        if now - self._said < (_SAY_SECONDS if self._bar.disable else 1.0):
            return
        self._said, done = now, min(self._tasks, self._done())
        left = "time unknown"
        if done > self._before:
            # Tasks of all kinds, at the pace so far: those still to come are like those that were.
            left = f"about {clock((now - self._began) * (self._tasks - done) / (done - self._before))} left"
        self._bar.update(self._row, completed=done, note=left)
        if self._bar.disable:
            line = f"{time.strftime('%H:%M:%S')} all runs: {done}/{self._tasks} tasks, {left}"
            self._bar.console.print(line, markup=False, highlight=False)

    def _done(self) -> int:
        return sum(1 for run in self._roots for _ in run.root.glob("it*/done/*"))
