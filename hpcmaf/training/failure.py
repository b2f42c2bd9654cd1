"""How a worker's reason reaches the one line the user sees."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcmaf.errors import HpcmafError, system_error

NAME = "failure.txt"


@contextmanager
def recorded(work: Path) -> Iterator[None]:
    """Keep the first failure of any process as one line in ``work``; the trace goes to the log."""
    try:
        yield
    except Exception as error:
        told = system_error(error) if isinstance(error, OSError | MemoryError) else error
        line = str(told) if isinstance(told, HpcmafError) else f"{type(error).__name__}: {error}"
        traceback.print_exc()
        try:
            # "x": the first process to fail knows why, the others only that it is gone.
            with (work / NAME).open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(" ".join(line.split()) + "\n")
        except FileExistsError:
            pass
        raise
