r"""Math-Verify in worker processes, behind a deadline that holds from any thread.

Math-Verify's own timeout is a signal, which works only in the main thread and never inside one long C call
(``9**9**9``). A process can be killed. The workers are forked from a server that has sympy imported, and no threads,
locks or GPU context of this process.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

from hpcmaf.cores import usable_cores
from hpcmaf.errors import PlatformError

# Importing sympy from a busy network file system can take this long. It is not part of any check's deadline, or
# verdicts would depend on the disk.
START_S = 300.0
MAX_WORKERS = min(8, usable_cores())


@dataclass
class Deadline:
    """Seconds left for the checks of one comparison; waiting for a worker does not count."""

    left_s: float


def check(a: str, b: str, deadline: Deadline) -> bool:
    """Whether Math-Verify finds ``a`` and ``b`` equal in either direction, within the deadline.

    Raises
    ------
    PlatformError
        The workers cannot start.
    """
    for _ in range(3):  # a worker that was killed from outside is replaced
        if deadline.left_s <= 0:
            break
        with _slots:
            try:
                process, pipe = _idle.pop()
            except IndexError:
                process, pipe = _start()
            try:
                pipe.send((a, b, deadline.left_s))
                if not pipe.poll(deadline.left_s):
                    deadline.left_s = 0.0
                    raise TimeoutError
                verdict, seconds = pipe.recv()
            except (EOFError, OSError):
                process.kill()
                process.join()
                continue
            _idle.append((process, pipe))
        deadline.left_s -= seconds
        return verdict
    return False


def _start() -> tuple[multiprocessing.Process, Connection]:
    """Start a worker and wait until it can answer."""
    context = multiprocessing.get_context(_method)
    context.set_forkserver_preload(["hpcmaf.answers.worker"])
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    with _lock:
        safe = os.environ.get("PYTHONSAFEPATH", "")
        os.environ["PYTHONSAFEPATH"] = "1"  # the server imports nothing from the folder it is started in
        process.start()
        os.environ["PYTHONSAFEPATH"] = safe  # empty is as good as unset
    theirs.close()
    try:
        if pipe.poll(START_S) and pipe.recv():
            return process, pipe
    except EOFError:
        pass
    process.kill()
    raise PlatformError(
        "the answer checker did not start: try `python -c 'import math_verify'` in this environment and "
        "reinstall hpcmaf if it fails; a script of your own needs `if __name__ == '__main__':`"
    )


def _serve(pipe: Connection) -> None:
    try:
        from hpcmaf.answers import worker  # imported in the workers alone

        pipe.send(True)
        while True:
            pipe.send(worker.compare(*pipe.recv()))
    except (ImportError, EOFError, BrokenPipeError):  # which the other end sees, or it is gone
        pass


def _after_fork() -> None:
    """Leave the workers and their server to the parent of a forked process."""
    global _idle, _lock, _slots, _method
    _idle, _lock, _slots, _method = [], threading.Lock(), threading.Semaphore(MAX_WORKERS), "spawn"


_after_fork()
_method = "forkserver"
os.register_at_fork(after_in_child=_after_fork)
