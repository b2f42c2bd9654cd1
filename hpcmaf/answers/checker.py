r"""Math-Verify in a process of its own, behind a deadline that holds from any thread.

Math-Verify's own timeout is a signal, which works only in the main thread and never inside one long C call
(``9**9**9``). A process can be killed, and shares no threads, locks or GPU context with this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

from hpcmaf.errors import PlatformError


@dataclass
class Deadline:
    """Seconds left for the checks of one comparison; waiting for the worker does not count."""

    left_s: float


def check(a: str, b: str, deadline: Deadline) -> bool:
    """Whether Math-Verify finds ``a`` and ``b`` equal in either direction, within the deadline.

    Raises
    ------
    PlatformError
        The worker cannot start.
    """
    global _worker
    with _lock:
        for _ in range(3):  # a worker that was killed from outside is replaced
            if deadline.left_s <= 0:
                break
            _worker = _worker or _start()
            try:
                print(json.dumps([a, b, deadline.left_s]), file=_worker.stdin, flush=True)
                verdict, seconds = json.loads(_worker.stdout.readline())
            except (OSError, ValueError):
                _end(_worker)
                _worker = None
                continue
            deadline.left_s = max(0.0, deadline.left_s - seconds)
            return verdict
    return False


def _start() -> subprocess.Popen[str]:
    """Start a worker, which imports nothing from the folder it is started in, and wait until it can answer."""
    command, pipe = [sys.executable, "-P", "-m", "hpcmaf.answers.worker"], subprocess.PIPE
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    if worker.stdout.readline():  # no part of any check's deadline, or verdicts would depend on the disk
        return worker
    _end(worker)
    raise PlatformError(
        "the answer checker did not start: try `python -c 'import math_verify'` in this environment and "
        "reinstall hpcmaf if it fails"
    )


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.communicate()


def _forget() -> None:
    """Leave the worker to the parent of a forked process."""
    global _worker, _lock
    _worker, _lock = None, threading.Lock()


_forget()
os.register_at_fork(after_in_child=_forget)
