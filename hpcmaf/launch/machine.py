"""Runs side by side on this machine, over one set of slots."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError
from hpcmaf.launch.advance import start_afresh, sweep
from hpcmaf.launch.local import Local
from hpcmaf.launch.progress import Watcher
from hpcmaf.launch.slots import Slots
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan

POLL_SECONDS = 0.2


class Machine:
    """Carries runs on, the one begun first having its pick of the slots.

    One run alone leaves cores idle: while its shards are merged, or its last
    agent is in training. Several have always something else to do. A context
    manager: jobs that still run at its end are stopped.

    Parameters
    ----------
    root
        Names the servers of all runs.
    """

    def __init__(self, profile: Profile, root: Path) -> None:
        self.profile, self.slots = profile, Slots(profile, root)
        self._active: dict[Path, tuple[Local, ExitStack]] = {}
        self._failed: dict[Path, HpcmafError] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for scheduler, held in self._active.values():
                with held:
                    scheduler.cancel()
        finally:
            self.slots.close()

    def start(self, run: RunDir, plan: Plan, watcher: Watcher) -> None:
        """Hold a run, and put it in order.

        Raises
        ------
        RunBusyError
            Somebody else holds it.
        """
        with ExitStack() as stack:
            stack.enter_context(run.drive())
            scheduler = Local(run, plan, self.profile, watcher, self.slots)
            start_afresh(scheduler)
            stack.enter_context(watcher)
            self._active[run.root] = scheduler, stack.pop_all()

    def going(self, run: RunDir) -> bool:
        """Whether a run has anything left.

        Raises
        ------
        HpcmafError
            It has failed; told once.
        """
        if (error := self._failed.pop(run.root, None)) is not None:
            raise error
        return run.root in self._active

    def work(self, seconds: float) -> None:
        """Carry all runs on for so long, or until one of them is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # All of them first: a slot goes to the run begun first, not to the one that frees it.
            seen = [(root, scheduler, scheduler.states()) for root, (scheduler, _) in self._active.items()]
            over = [root for root, scheduler, states in seen if not scheduler.step(states)]
            for root in over:
                scheduler, held = self._active.pop(root)
                with held:
                    sweep(scheduler.run, scheduler.plan)
                if scheduler.failure is not None:
                    self._failed[root] = scheduler.failure
            if over or not self._active:
                return
            time.sleep(POLL_SECONDS)
