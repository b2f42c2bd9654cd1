"""Requests to stop: by the scheduler, through signals, or by the program around a job."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Slurm sends the first ahead of a time limit and the second on preemption and scancel.
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
# Ten looks at a shared file system in a second cost nothing; one per step of a small model may.
_LOOK_S = 0.1


class StopFlag:
    """A request to end a job at its next step, with a checkpoint.

    Parameters
    ----------
    grace_s
        Time a job has for that before its processes are killed.
    """

    def __init__(self, grace_s: float = 600.0) -> None:
        self.grace_s = grace_s
        self._since: float | None = None

    def request(self, *_: object) -> None:
        """Request it; may be called from a signal handler (and be one), and any number of times."""
        if self._since is None:
            self._since = time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether it was requested."""
        return self._since is not None

    @property
    def overdue(self) -> bool:
        """Whether the job has had its time."""
        return self._since is not None and time.monotonic() - self._since > self.grace_s


class StopFile:
    """The same request to a job's processes, on all nodes and also those yet to start: a file in its work folder."""

    def __init__(self, work: Path) -> None:
        self._path, self._there, self._looked = work / "stop", False, -math.inf

    def request(self) -> None:
        """Request it."""
        with suppress(OSError):  # the job has just ended
            self._path.touch()
        self._there = True

    @property
    def requested(self) -> bool:
        """Whether it was requested."""
        if not self._there and time.monotonic() - self._looked >= _LOOK_S:
            self._looked, self._there = time.monotonic(), self._path.exists()
        return self._there


def handle_signals(handler: Callable[..., object] | signal.Handlers) -> None:
    """Let the scheduler's signals call ``handler`` instead of killing this process (main thread only)."""
    for number in SIGNALS:
        signal.signal(number, handler)
