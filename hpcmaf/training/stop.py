"""Requests to stop: by the scheduler, through signals, or by the program around a job."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Slurm sends the first ahead of a time limit and the second on preemption and scancel.
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
# A look at a shared file system now and then is free; one per step of a small model is not.
_LOOK_S = 1.0


class StopFlag:
    """A request to end a job at its next step, with a checkpoint.

    Parameters
    ----------
    grace_s
        Time a job has for that before its processes are killed.
    work
        In one of a job's processes: the job's work folder, where a file makes
        the same request, because signals reach only processes that exist
        already, and only where the scheduler sends them.
    """

    def __init__(self, grace_s: float = 600.0, work: Path | None = None) -> None:
        self.grace_s = grace_s
        self._work, self._looked = work, 0.0
        self._since: float | None = None

    def request(self, *_: object) -> None:
        """Request it; may be called from a signal handler (and be one), and any number of times."""
        if self._since is None:
            self._since = time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether it was requested."""
        if self._since is None and self._work is not None and time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            if stop_requested(self._work):
                self.request()
        return self._since is not None

    @property
    def overdue(self) -> bool:
        """Whether the job has had its time."""
        return self._since is not None and time.monotonic() - self._since > self.grace_s


def request_stop(work: Path) -> None:
    """Request that all of a job's processes stop, also those yet to start."""
    with suppress(OSError):  # the job has just ended
        (work / "stop").touch()


def stop_requested(work: Path) -> bool:
    """Whether it was requested."""
    return (work / "stop").exists()


def handle_signals(handler: Callable[..., object]) -> None:
    """Let the scheduler's signals call ``handler`` instead of killing this process (main thread only)."""
    for number in SIGNALS:
        signal.signal(number, handler)
    # The launcher starts its child with them blocked, so that none comes too early.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
