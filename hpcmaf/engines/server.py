"""vLLM servers: found or started, watched, and ended with their last user.

A server belongs to a run and to the devices of a task. It lives as long as
a user has a lock on it (see ``keeper``): every engine that uses it, and the
driver of a run on one machine, so that the next stage finds it ready.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import httpx

from hpcmaf.engines import keeper
from hpcmaf.engines.client import Client
from hpcmaf.errors import TRANSIENT, FailureKind, PlatformError, errno_in

# Environment variable that names whose servers a task uses, where that is not its run.
SHARED = "HPCMAF_SERVERS"
# The name of a Unix socket has at most 107 bytes, of which ours below this folder take 83.
_LONGEST_ROOT = 24
_GRACE_SECONDS = 20.0
# A request that is not answered for so long never will be.
_STALLED_SECONDS = 3600.0


class Server:
    """A server that runs, or is about to, and this process's part in keeping it.

    Parameters
    ----------
    folder
        The server's.
    use
        Whether an engine uses it; else it is only kept running.

    Attributes
    ----------
    facts
        What its starter found out: key, context, log and where in that it
        begins, parts of the start, and what it does while agents are trained.
        Empty until it is up.

    Raises
    ------
    OSError
        There is none, or it is being ended.
    """

    def __init__(self, folder: Path, use: bool = False) -> None:
        self.folder, self.socket = folder, str(folder / "api.sock")
        self._locks: list[IO[str]] = []
        self._lock("lock", fcntl.LOCK_SH | fcntl.LOCK_NB)
        if use:
            self.use()
        self.facts: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.facts = json.loads((folder / "server.json").read_bytes())

    def _lock(self, name: str, how: int) -> None:
        file = open(self.folder / name, "a")  # noqa: SIM115
        try:
            fcntl.flock(file, how)
        except OSError:
            file.close()
            raise
        # A forked child must not keep it beyond this process.
        os.register_at_fork(after_in_child=file.close)
        self._locks.append(file)

    @property
    def alive(self) -> bool:
        """Whether it still runs; what is left of one that was killed, or whose keeper was, is killed here."""
        if not self._locks:
            return False  # given back
        with suppress(OSError):
            pids = (self.folder / "pid").read_text().split()
            if all(keeper.started(int(pid)) == began for pid, began in zip(pids[::2], pids[1::2], strict=False)):
                return True
        clean(self.folder)
        self.close()
        return False

    def use(self) -> None:
        """Use it from now on."""
        self._lock("users", fcntl.LOCK_SH)

    def used(self) -> bool:
        """Whether an engine uses it now."""
        try:
            with open(self.folder / "users", "a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

    def end(self) -> None:
        """End it unless an engine uses it, and wait for that."""
        with suppress(OSError, ValueError):
            self._lock("users", fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.killpg(int((self.folder / "pid").read_text().split()[0]), signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_SECONDS
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.1)
            clean(self.folder)

    def close(self) -> None:
        """Give it back."""
        while self._locks:
            self._locks.pop().close()

    def connect(self, in_flight: int) -> None:
        """Have a client of it, for so many requests at once."""
        settings = {"base_url": "http://server", "headers": self._key(), "timeout": _STALLED_SECONDS}
        self.client = Client(settings, uds=self.socket, in_flight=in_flight, alive=lambda: self.alive)

    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.facts['key']}"}

    def call(self, method: str, path: str) -> httpx.Response | None:
        """Send a request without a body, once; the reply, or ``None`` unless the server did it."""
        with suppress(httpx.HTTPError), httpx.Client(transport=httpx.HTTPTransport(uds=self.socket)) as client:
            reply = client.request(method, f"http://server{path}", headers=self._key(), timeout=120)
            return reply if reply.is_success else None
        return None


def find(folder: Path) -> Server | None:
    """The server of a folder, kept running from now on, or ``None``; what is left of one that ended is removed."""
    with suppress(OSError):
        server = Server(folder)
        if server.alive:
            return server
    clean(folder)
    return None


def clean(folder: Path) -> None:
    """Kill what a killed keeper left of its server, and remove its folder."""
    with suppress(OSError, ValueError):
        pid, began, *_ = (folder / "pid").read_text().split()
        # The leader may be gone and its children not; a reused process id is another process.
        if keeper.started(int(pid)) in {began, ""}:
            os.killpg(int(pid), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def servers_folder(run: str) -> Path:
    """Folder of this machine for a run's servers, which only its user can enter.

    Servers of one Slurm job end with it, so other jobs must not use them.
    """
    root = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_ROOT else "/tmp"
    folder = Path(root, f"hpcmaf-servers-{os.getuid()}")
    for name in (folder, folder / digest([run, os.environ.get("SLURM_JOB_ID")])):
        name.mkdir(mode=0o700, exist_ok=True)
        if name.lstat().st_uid != os.getuid() or name.lstat().st_mode & 0o077:
            raise PlatformError(f"{name}: others can enter it; remove it, or name another place in TMPDIR")
    return name


async def running(where: Path, spec: str, asleep: bool) -> Server | None:
    """The server in a folder that was started by some spec, in use from now on; without one, idle others make room.

    ``asleep``: whether it has to be woken first.
    """
    for server in filter(None, map(find, where.glob(f"s{spec}*"))):
        if server.facts:
            server.use()
            if (not asleep or await asyncio.to_thread(server.call, "POST", "/wake_up")) and server.alive:
                return server
        clean(server.folder)  # its GPU has no room for it any more
        server.close()
    for other in filter(None, map(find, where.glob("s*"))):
        await asyncio.to_thread(other.end)
        other.close()
    return None


def digest(value: object) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


# --- what a log says -------------------------------------------------------
_LOG_PREFIX = re.compile(r"^\s*(\([^)]*\)\s*)?((ERROR|INFO|WARNING) \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?\s*")
_ERROR = re.compile(r"^[\w.]*(Error|Exception|NotFound\w*|Interrupt)\b: *\S|error: |not found$|bash: ")
_SECOND_HAND = re.compile("Engine core initialization failed|WorkerProc initialization failed|See stack trace")
_MEMORY = re.compile(
    r"memoryerror|out of memory|outofmemory|can(no|')t allocate memory|kv cache|free memory on device"
    r"|memory for the cache blocks", re.IGNORECASE,
)  # fmt: skip
_REFUSED = re.compile(
    r"unrecognized arguments|invalid choice|is greater than the derived max_model_len|are not supported"
    r"|not a valid model identifier|validation errors? for|does not appear to have a file named"
    r"|safetensorerror|error while deserializing header|no such file|not found$", re.IGNORECASE,
)  # fmt: skip
_PARTS = {
    "weights": r"Loading weights took ([\d.]+) s",
    "compile": r"torch\.compile (?:and initial profiling/warmup run together )?took ([\d.]+) s",
    "profile and cache": r"init engine \(.*?\) took ([\d.]+) s",
    "capture": r"Graph capturing finished in ([\d.]+) s",
}


def written(facts: Mapping[str, Any]) -> str:
    """What a server has written to its log, which may hold other servers' words before."""
    with suppress(OSError), open(facts["log"], "rb") as file:
        file.seek(facts["log_offset"])
        return file.read().decode(errors="replace")
    return ""


def read_failure(text: str) -> tuple[str, FailureKind]:
    """Why a server ended, in one line, and of what kind that is: memory, refused, or hardware."""
    lines = [_LOG_PREFIX.sub("", line).strip() for line in text.splitlines()]
    # Only errors have a kind: a line on how full the KV cache is does not say that memory ran out.
    errors = [line for line in lines if _ERROR.search(line) and not _SECOND_HAND.search(line)]
    # A lack of memory is the cause of what else is said, wherever it stands; otherwise the last error sums it up.
    memory = next((line for line in errors if _MEMORY.search(line)), None)
    last = errors[-1] if errors else next((line for line in reversed(lines) if line), "it wrote nothing")
    kind: FailureKind = "memory" if memory else "refused" if errors and _REFUSED.search(last) else "hardware"
    reason = " ".join((memory or last).split())[:1000]
    # What a file system could not give now, however the library calls it that met it.
    return reason, "hardware" if errno_in(reason) in TRANSIENT else kind


def start_parts(text: str, seconds: float) -> dict[str, float]:
    """Seconds of a start by what they were spent on, as the server's log has them.

    ``profile and cache`` holds compiling and capturing too; ``imports and
    rest`` is what is left of the whole.
    """
    found = {name: [float(value) for value in re.findall(pattern, text)] for name, pattern in _PARTS.items()}
    parts = {"start": round(seconds, 1)} | {name: max(values) for name, values in found.items() if values}
    known = parts.get("weights", 0.0) + parts.get("profile and cache", 0.0)
    return parts | {"imports and rest": round(max(0.0, seconds - known), 1)}


def say(line: str) -> None:
    """Print a line for whoever reads the task's log."""
    print(line, file=sys.stderr, flush=True)
