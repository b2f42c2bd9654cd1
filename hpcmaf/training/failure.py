"""How a worker's reason reaches the one line the user sees, and what kind of reason it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hpcmaf.errors import FailureKind, HpcmafError, errno_of, failure_kind, kind_of_words, system_error
from hpcmaf.files.publish import write_json

NAME = "failure.json"
# A process that lost another one to a failure waits so long for that one's reason.
LOST_S = 5.0

# Any other reason replaces these, and the second the first: those who merely lost another process do not know why.
_SECONDHAND: dict[FailureKind, int] = {"lost": 1, "hardware": 2}
_SIGNALS: dict[int, FailureKind] = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGINT), "killed")
_SIGNALS[signal.SIGBUS] = "hardware"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed.

    Attributes
    ----------
    kind
        See :data:`hpcmaf.errors.FailureKind`. ``"lost"``: another process of
        the job went away, for a reason of its own.
    errno
        The operating system's number, if one is behind it.
    node
        Where it happened, as Slurm calls it; of ``"lost"`` the one that went away, where that is known.
    """

    kind: FailureKind
    message: str
    errno: int | None = None
    node: str | None = None

    def record(self, work: Path) -> None:
        """Leave it to the launcher.

        The first process to fail knows why; the others know only that they
        lost it, or that a collective failed, which any other reason replaces.
        """
        known = read(work)
        if work.is_dir() and (known is None or _SECONDHAND.get(known.kind, 3) < _SECONDHAND.get(self.kind, 3)):
            here = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
            write_json(work / NAME, asdict(self) | {"node": self.node or (None if self.kind == "lost" else here)})


def read(work: Path) -> Failure | None:
    """The failure recorded in a work folder, if there is one."""
    with suppress(FileNotFoundError):
        return Failure(**json.loads((work / NAME).read_text()))
    return None


def report(error: Exception, work: Path) -> None:
    """Record why a process failed; one that merely lost another gives it time to say so itself."""
    failure = explained(error)
    end = time.monotonic() + (LOST_S if failure.kind == "lost" else 0)
    while time.monotonic() < end and read(work) is None:
        time.sleep(0.1)
    failure.record(work)


def explained(error: Exception) -> Failure:
    """An exception in a line, and of what kind it is."""
    own = system_error(error) if isinstance(error, OSError | MemoryError) else error
    text = str(own) if isinstance(own, HpcmafError) else f"{type(error).__name__}: {error}"
    return Failure(failure_kind(error), " ".join(text.split()), errno_of(error))


def oom_kills(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """How often the kernel's out-of-memory killer struck in this process's control group; ``None`` where not known."""
    with suppress(OSError, ValueError, StopIteration):
        group = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
        rows = (root / group.lstrip("/") / "memory.events").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("oom_kill "))
    return None


def ended(who: str, code: int | None, before: int | None, log: str = "") -> Failure:
    """The failure of a process that left no reason of its own.

    Parameters
    ----------
    code
        As :mod:`subprocess` has it: negative for a signal; ``None``: it did not end.
    before
        :func:`oom_kills` from before it.
    log
        The end of what it printed.
    """
    if code == -signal.SIGKILL:
        after = oom_kills()
        if before is not None and after is not None and after > before:
            return Failure("memory", f"{who} was killed by the kernel, out of memory")
        return Failure("killed", f"{who} was killed by SIGKILL, out of memory?")
    how = "no exit code" if code is None else f"exit code {code}"
    if code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}"
        if -code in _SIGNALS:
            return Failure(_SIGNALS[-code], f"{who} was {how}")
    # An abort, such as by NCCL's watchdog, has its reason some lines above the last.
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no output"]
    telling = next((line for line in reversed(lines) if kind_of_words(line)), lines[-1])
    return Failure(kind_of_words(telling) or "defect", f"{telling} ({who}: {how})")
