"""Why a tensor parallel worker failed: its engine is told no more than that one did.

Without the cause a worker that ran out of memory would look like any other
crash, and the engine would not be started with less.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FILE = "HPCMAF_WORKER_CAUSE"
# Who says in a worker that it failed.
_LOGGER = "vllm.v1.executor.multiproc_executor"


@contextmanager
def workers_heard() -> Iterator[Callable[[], str | None]]:
    """Have workers that are started meanwhile leave their cause; yields what tells the first one left."""
    with tempfile.TemporaryDirectory(prefix="hpcmaf-cause-") as folder:
        path = Path(folder, "cause")
        os.environ[_FILE] = str(path)
        try:
            yield lambda: path.read_text() if path.exists() else None
        finally:
            os.environ.pop(_FILE, None)


class _Cause(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        try:
            # All ranks fail together; whose word it is does not matter, but it must be whole.
            with open(os.environ[_FILE], "x") as file:
                file.write(f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}")
        except (OSError, KeyError):
            pass


def leave_causes() -> None:
    """In a worker: leave the cause of what it logs as its failure."""
    logging.getLogger(_LOGGER).addHandler(_Cause(logging.ERROR))
