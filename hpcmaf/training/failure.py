"""How a worker's reason reaches the one line the user sees."""

from __future__ import annotations

import errno
import json
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hpcmaf.errors import HpcmafError, system_error
from hpcmaf.publish import write_json

NAME = "failure.json"
# A process that lost another one to a failure waits so long for that one's reason.
LOST_S = 5.0

# On exceptions whose trace is in the log.
_TOLD = "told_by_hpcmaf"
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)
_LOST = re.compile(r"connection (was )?(closed|reset|refused)|remote process|broken pipe|socket", re.IGNORECASE)

Kind = Literal["error", "memory", "lost"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed.

    Attributes
    ----------
    kind
        ``"memory"``: out of it. ``"lost"``: another process of the job went
        away, for a reason of its own.
    """

    kind: Kind
    message: str

    def record(self, work: Path) -> None:
        """Leave it to the launcher.

        The first process to fail knows why; the others know only that they
        lost it, which any other reason replaces.
        """
        known = read(work)
        if work.is_dir() and (known is None or (known.kind == "lost" and self.kind != "lost")):
            write_json(work / NAME, asdict(self))


def read(work: Path) -> Failure | None:
    """The failure recorded in a work folder, if there is one."""
    try:
        return Failure(**json.loads((work / NAME).read_text()))
    except FileNotFoundError:
        return None


@contextmanager
def recorded(work: Path, *, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Keep the first failure of any process in ``work``; the trace goes to the log.

    ``stopped`` ends the wait of a process that has nothing of its own to tell.
    """
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        error.__dict__[_TOLD] = True
        failure = explained(error)
        end = time.monotonic() + (LOST_S if failure.kind == "lost" else 0)
        while time.monotonic() < end and not stopped() and read(work) is None:
            time.sleep(0.1)
        failure.record(work)
        raise


def told(error: Exception) -> bool:
    """Whether :func:`recorded` has seen this very exception, and put its trace into the log."""
    return _TOLD in error.__dict__


def explained(error: Exception) -> Failure:
    """An exception in a line, and of what kind it is."""
    told = system_error(error) if isinstance(error, OSError | MemoryError) else error
    text = str(told) if isinstance(told, HpcmafError) else f"{type(error).__name__}: {error}"
    return Failure(_kind(error), " ".join(text.split()))


def _kind(error: Exception) -> Kind:
    # By name: this must not import torch.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"} or getattr(error, "errno", None) == errno.ENOMEM:
        return "memory"
    if isinstance(error, RuntimeError):
        if _MEMORY.search(str(error)):
            return "memory"
        if "DistError" in names or _LOST.search(str(error)):
            return "lost"
    return "error"


def oom_kills(process: str = "self", root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int | None:
    """How often the kernel's out-of-memory killer struck in this process's control group.

    ``None`` where that cannot be told.
    """
    try:
        for line in (proc / process / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" and not controllers:
                counts = root / path.lstrip("/") / "memory.events"
            elif "memory" in controllers.split(","):
                counts = root / "memory" / path.lstrip("/") / "memory.oom_control"
            else:
                continue
            if counts.exists():
                return next(
                    int(row.split()[1]) for row in counts.read_text().splitlines() if row.startswith("oom_kill ")
                )
    except (OSError, ValueError, StopIteration):
        pass
    return None


def killed(who: str, before: int | None) -> Failure:
    """The failure of a process that died by SIGKILL; ``before`` is :func:`oom_kills` from before it."""
    after = oom_kills()
    if before is not None and after is not None and after > before:
        return Failure("memory", f"{who} was killed by the kernel, out of memory")
    return Failure("error", f"{who} was killed by SIGKILL, out of memory?")
