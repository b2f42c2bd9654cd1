r"""Math-Verify in worker processes, behind a deadline that holds from any thread.

Math-Verify's own timeout is a signal, which works only in the main thread and never inside one long C call
(``9**9**9``). A process can be killed, and pebble's pool does that. Its workers are forked from a server that has sympy
imported, and no threads, locks or GPU context of this process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import threading
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcmaf.cores import usable_cores
from hpcmaf.errors import PlatformError

if TYPE_CHECKING:
    import pebble

# Importing sympy from a busy network file system can take this long. It is not part of any check's deadline, or
# verdicts would depend on the disk.
START_S = 300.0
MAX_WORKERS = min(8, usable_cores())

_pool: pebble.ProcessPool | None = None
_lock = threading.Lock()
_method = "forkserver"


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
        pool = warm_up()
        try:
            verdict, seconds = pool.schedule(_compare, (a, b, deadline.left_s), timeout=deadline.left_s).result()
            deadline.left_s -= seconds
            return verdict
        except TimeoutError:
            deadline.left_s = 0.0
        except OSError:  # pebble.ProcessExpired: the worker died over this
            continue
        except (BrokenExecutor, RuntimeError):  # an idle worker died, which ends a pool
            close(pool)
    return False


def warm_up() -> pebble.ProcessPool:
    """Start the workers where there are none, and wait until one can answer."""
    global _pool
    with _lock:
        if _pool is None:
            from pebble import ProcessPool

            context = multiprocessing.get_context(_method)
            context.set_forkserver_preload(["hpcmaf.answers.worker"])
            pool = ProcessPool(MAX_WORKERS, context=context)
            safe = os.environ.get("PYTHONSAFEPATH", "")
            os.environ["PYTHONSAFEPATH"] = "1"  # the server imports nothing from the folder it is started in
            try:
                pool.schedule(_compare, ("x", "x", START_S)).result(timeout=START_S)
            except Exception as error:
                pool.stop()
                raise PlatformError(
                    "the answer checker did not start: try `python -c 'import math_verify'` in this environment and "
                    "reinstall hpcmaf if it fails; a script of your own needs `if __name__ == '__main__':`"
                ) from error
            finally:
                os.environ["PYTHONSAFEPATH"] = safe  # empty is as good as unset
            _pool = pool
        return _pool


def close(pool: pebble.ProcessPool | None = None) -> None:
    """End the workers of a pool, or of the one in use; a later check starts others."""
    global _pool
    with _lock:
        pool = pool or _pool
        _pool = None if _pool is pool else _pool
    if pool is not None:
        pool.stop()
        pool.join()


def _after_fork() -> None:
    global _pool, _lock, _method
    _pool, _lock, _method = None, threading.Lock(), "spawn"  # workers and server are the parent's


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)


def _compare(a: str, b: str, deadline_s: float) -> tuple[bool, float]:
    from hpcmaf.answers import worker  # imported in the workers alone

    return worker.compare(a, b, deadline_s)
