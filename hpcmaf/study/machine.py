"""Runs of a study side by side on one machine, over one set of slots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError
from hpcmaf.launch.estimate import clock
from hpcmaf.launch.local import POLL_SECONDS, LocalDriver, Slots
from hpcmaf.launch.progress import Watcher
from hpcmaf.run.directory import RunDir
from hpcmaf.study.sharing import Planned

# Without bars, how often to say how far the study is.
_SAY_SECONDS = 60.0


class Machine:
    """Carries runs on, the one begun first having its pick of the slots.

    One run alone leaves cores idle: while its shards are merged, or its last
    agent is in training. A study has always something else to do.

    Parameters
    ----------
    tasks
        Of the whole study, those included that are taken over or done.
    console
        A terminal gets a bar, anything else a line now and then.
    """

    def __init__(self, profile: Profile, runs: list[RunDir], tasks: int, console: Console) -> None:
        self.profile = profile
        self.console = console
        self._slots = Slots(profile, runs[0].root)
        self._roots = runs
        self._tasks = tasks
        self._active: dict[Path, tuple[LocalDriver, ExitStack]] = {}
        self._failed: dict[Path, HpcmafError] = {}
        self._began = self._said = time.monotonic()
        self._before = self._done()
        self._bar: tuple[Progress, TaskID] | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Show progress within the block; jobs that still run at its end are stopped."""
        with ExitStack() as stack:
            stack.callback(self._slots.close)
            stack.callback(self._stop)
            if self.console.is_terminal:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
                bar = Progress(*columns, TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=self.console)
                self._bar = (stack.enter_context(bar), bar.add_task("all runs", total=self._tasks, note=""))
            yield

    def start(self, planned: Planned) -> None:
        """Hold a run and put it in order.

        Raises
        ------
        RunBusyError
            Somebody else holds it.
        """
        with ExitStack() as stack:
            stack.enter_context(planned.run.drive())
            watcher = Watcher(planned.run, planned.plan, self.profile, self.console, among=True)
            driver = LocalDriver(planned.run, planned.plan, self.profile, watcher, self._slots)
            driver.begin()
            stack.enter_context(watcher)
            self._active[planned.run.root] = (driver, stack.pop_all())

    def going(self, planned: Planned) -> bool:
        """Whether a run has anything left.

        Raises
        ------
        HpcmafError
            It has failed; told once.
        """
        if (error := self._failed.pop(planned.run.root, None)) is not None:
            raise error
        return planned.run.root in self._active

    def work(self, seconds: float) -> None:
        """Carry all runs on for so long, or until one of them is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # A slot goes to the run begun first, not to the one that frees it.
            for driver, _ in self._active.values():
                driver.collect()
            over = [root for root, (driver, _) in self._active.items() if not driver.launch()]
            for root in over:
                driver, held = self._active.pop(root)
                try:
                    with held:
                        driver.end()
                except HpcmafError as error:
                    self._failed[root] = error
            self._show()
            if over or not self._active:
                return
            time.sleep(POLL_SECONDS)

    def _stop(self) -> None:
        for driver, held in self._active.values():
            with held:
                driver.stop()
        self._active.clear()

    def _done(self) -> int:
        return sum(1 for run in self._roots for _ in run.root.glob("it*/done/*"))

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._said < (1.0 if self._bar else _SAY_SECONDS):
            return
        self._said, done = now, min(self._tasks, self._done())
        left = "time unknown"
        if done > self._before:
            # Tasks of all kinds, at the pace so far: those still to come are like those that were.
            left = f"about {clock((now - self._began) * (self._tasks - done) / (done - self._before))} left"
        if self._bar:
            self._bar[0].update(self._bar[1], completed=done, note=left)
        else:
            stamp = time.strftime("%H:%M:%S")
            self.console.print(f"{stamp} all runs: {done}/{self._tasks} tasks, {left}", markup=False, highlight=False)
