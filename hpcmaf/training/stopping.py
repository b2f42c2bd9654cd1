"""Being asked to stop: by the scheduler, through signals, or by the program around a job."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

# Slurm sends the first ahead of a time limit and the second on preemption and scancel.
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
# In a job's work folder: asks every process of the job to stop.
NAME = "stop"
# A look at a shared file system now and then is free; one per step of a small model is not.
_LOOK_S = 1.0


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
        """Ask; may be called from a signal handler (and be one), and any number of times."""
        if self._since is None:
            self._since = time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether anyone asked."""
        return self._since is not None

    @property
    def overdue(self) -> bool:
        """Whether the job has had its time."""
        return self._since is not None and time.monotonic() - self._since > self.grace_s


class WorkStop(StopFlag):
    """What one of a job's processes knows of it: by signals, or by a file in the job's work folder.

    The file, because signals reach only processes that exist already, and
    only where the scheduler sends them.
    """

    def __init__(self, work: Path) -> None:
        super().__init__()
        self._file = work / NAME
        self._looked = 0.0

    @property
    def requested(self) -> bool:
        """Whether anyone asked."""
        if self._since is None and time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            if self._file.exists():
                self._since = self._looked
        return self._since is not None


def ask(work: Path) -> None:
    """Ask all of a job's processes, also those yet to start."""
    try:
        (work / NAME).touch()
    except OSError:
        pass  # the job has just ended


def asked(work: Path) -> bool:
    """Whether somebody did."""
    return (work / NAME).exists()


def handle_signals(handler: Callable[..., object]) -> None:
    """Let the scheduler's signals call ``handler`` instead of killing this process (main thread only)."""
    for number in SIGNALS:
        signal.signal(number, handler)
    # The launcher starts its child with them blocked, so that none comes too early.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
