"""Locks that no kill leaves behind."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from hpcmaf.errors import PlatformError, RunBusyError

# What a file system says that has no locks.
_NO_FLOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


def is_locked(path: Path) -> bool:
    """Whether some process has a lock file; nothing is written, and whoever wants the lock waits for this look."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in {errno.ENOENT, *_NO_FLOCK}:  # nobody has locked it yet, or nobody can
            raise
    return False


@contextmanager
def lock(path: Path, message: str, patience: float = 0.5) -> Iterator[None]:
    """Take a lock file; the kernel releases it when the process ends, however it ends.

    Parameters
    ----------
    patience
        Seconds to wait for others to let go of it: whoever only looks at it has it for a moment.

    Raises
    ------
    RunBusyError
        With ``message``: another process holds it.
    PlatformError
        The file system has no flock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    with open(path, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    raise RunBusyError(f"{message} ({path})") from error
                time.sleep(0.5)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
                remedy = "put runs elsewhere with --run, or mount it with locks (Lustre: -o flock; NFS: lockd)"
                reason = f"{path}: this file system has no flock ({error.strerror}); {remedy}"
                raise PlatformError(reason, errno=error.errno) from error
        yield


@asynccontextmanager
async def locked(path: Path, patience: float | None, tick: Callable[[], None], awaited: str) -> AsyncIterator[None]:
    """Take a lock file for work that may be done twice: continue without it where that is better than not at all.

    Parameters
    ----------
    patience
        Seconds to wait for others; ``None`` for ever. Where the file system has no locks there is no waiting.
    tick
        Called about twice a second while waiting; what it raises ends that.
    awaited
        What the others do, for the log.
    """
    began, waiting = time.monotonic(), False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(path, "", 0.0))
                break
            except RunBusyError:
                if not waiting:
                    say(f"waiting for {awaited} ({path})")
                if patience is not None and time.monotonic() - began > patience:
                    say(f"{path}: still locked after {patience / 60:.0f} minutes; going on without it")
                    break
                waiting = True
                tick()
                await asyncio.sleep(0.5)
            except (OSError, PlatformError) as error:
                say(f"{path}: {os.strerror(error.errno or errno.EIO)}; going on without a lock")
                break
        yield


def say(line: str) -> None:
    """Print a line for whoever reads the task's log."""
    print(line, file=sys.stderr, flush=True)
