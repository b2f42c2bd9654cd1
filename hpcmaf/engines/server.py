"""vLLM servers: found or started, watched, and ended with the last process that runs them.

Servers belong to a run and to the devices of a task. They live as long as a process has a lock on their run's folder
(see ``keeper``): every engine, and the driver of a run on one machine, so that the next stage finds them ready.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import IO, Any

import httpx

from hpcmaf.cores import gpus
from hpcmaf.engines import keeper
from hpcmaf.engines.client import Client
from hpcmaf.engines.options import VllmOptions, cache_folder, configuration
from hpcmaf.engines.watching import read_failure, start_parts, written
from hpcmaf.errors import EngineError, PlatformError
from hpcmaf.files.locking import locked

# Environment variable that names whose servers a task uses, where that is not its run.
SHARED = "HPCMAF_SERVERS"
# The name of a Unix socket has at most 107 bytes, of which ours below this folder take 83.
_LONGEST_ROOT = 24
_GRACE_SECONDS = 20.0
# A request that is not answered for so long never will be.
_STALLED_SECONDS = 3600.0
_COMPILE_PATIENCE = 20 * 60.0


def hold(path: Path, how: int = fcntl.LOCK_SH) -> IO[str]:
    """Lock a file until it is closed, or this process ends, however it ends; raises OSError where that cannot be."""
    file = open(path, "a")  # noqa: SIM115
    try:
        fcntl.flock(file, how)
    except OSError:
        file.close()
        raise
    # A forked child must not keep it beyond this process.
    os.register_at_fork(after_in_child=file.close)
    return file


class Server:
    """A server that runs, or is about to, and is used by this process until it is closed.

    Parameters
    ----------
    folder
        The server's.
    how
        To share it with others, or to be alone with it, as flock has it.

    Attributes
    ----------
    facts
        What its starter found out: key, context, log and where in that it begins, parts of the start, and what it does
        while agents are trained. Empty until it is up.

    Raises
    ------
    OSError
        There is none, or others use it.
    """

    def __init__(self, folder: Path, how: int = fcntl.LOCK_SH) -> None:
        self.folder, self.socket = folder, str(folder / "api.sock")
        self._use = hold(folder / "users", how)
        self.facts: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.facts = json.loads((folder / "server.json").read_bytes())

    @property
    def alive(self) -> bool:
        """Whether it still runs; what is left of one that was killed, or whose keeper was, is killed here."""
        if self._use.closed:
            return False
        with suppress(OSError):
            pids = (self.folder / "pid").read_text().split()
            if all(keeper.started(int(pid)) == began for pid, began in zip(pids[::2], pids[1::2], strict=False)):
                return True
        self.kill()
        return False

    def end(self) -> None:
        """Have its keeper end it, and wait for that."""
        with suppress(OSError, ValueError):
            os.kill(int((self.folder / "pid").read_text().split()[2]), signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_SECONDS
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.1)
        self.kill()

    def kill(self) -> None:
        """Kill it, or what is left of it, and remove its folder."""
        with suppress(OSError, ValueError):
            leader, began, keeping, since = (self.folder / "pid").read_text().split()
            # The leader may be gone and its children not; a reused process id is another process.
            if keeper.started(int(leader)) in {began, ""}:
                with suppress(ProcessLookupError):
                    os.killpg(int(leader), signal.SIGKILL)
            if keeper.started(int(keeping)) == since:
                os.kill(int(keeping), signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Use it no longer."""
        self._use.close()

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


def idle(folders: Iterable[Path]) -> Iterator[Server]:
    """Servers that nobody uses, nor can use while it is their turn; what is left of those that ended is removed."""
    for folder in folders:
        with suppress(OSError), closing(Server(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) as server:
            if server.alive:
                yield server


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
    """The server in a folder that was started by some spec; without one, idle others make room.

    ``asleep``: whether it has to be woken first.
    """
    for folder in where.glob(f"s{spec}*"):
        with suppress(OSError):
            server = await asyncio.to_thread(Server, folder)  # once others have sent it to sleep, or ended it
            if server.alive and server.facts:
                if (not asleep or await asyncio.to_thread(server.call, "POST", "/wake_up")) and server.alive:
                    return server
            server.kill()  # its GPU has no room for it any more
    for other in idle(where.glob("s*")):
        await asyncio.to_thread(other.end)
    return None


def digest(value: object) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


# --- starting one ----------------------------------------------------------
class StartFailed(EngineError):
    """A server did not start."""


async def launch(
    folder: Path, options: VllmOptions, arguments: Mapping[str, Any], devices: str | None, log: Path,
    check: Callable[[], None],
) -> Server:  # fmt: skip
    """Start a server, and wait until it answers; raises StartFailed, with one line, if it does not.

    Parameters
    ----------
    devices
        GPUs that it sees; ``None`` for all.
    check
        Called about twice a second; what it raises ends the start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    key, server = secrets.token_hex(16), Server(folder)
    server.facts = {"key": key, "log": str(log), "log_offset": log.stat().st_size if log.exists() else 0}
    # The key is not in the environment, which decides for vLLM whether what it has compiled still fits; nor where ps
    # shows it.
    settings = folder / "vllm.yaml"
    settings.write_text(json.dumps({"api-key": key} | configuration(arguments)))
    command = [sys.executable, "-I", keeper.__file__, str(folder), str(folder.parents[1] / "lock"), str(log)]
    command += [*options.command(arguments["model"]), "--config", str(settings), "--uds", server.socket]
    variables = options.environment(arguments) | ({"CUDA_VISIBLE_DEVICES": devices} if devices else {})
    try:
        async with AsyncExitStack() as alone:
            await alone.enter_async_context(compiling(arguments, check))
            began = time.time()
            keeping = subprocess.Popen(command, env=variables, start_new_session=True, stdin=subprocess.DEVNULL)
            while not (folder / "pid").exists() and keeping.poll() is None:
                await asyncio.sleep(0.05)
            while (models := await asyncio.to_thread(server.call, "GET", "/v1/models")) is None:
                check()
                parts = start_parts(written(server.facts), time.time() - began)
                if "compile" in parts:
                    await alone.aclose()  # others may start now
                if not server.alive:
                    reason, kind = read_failure(written(server.facts))
                    raise StartFailed(reason, kind=kind)
                if parts["start"] > 60 * options.start_minutes:
                    minutes = f"{options.start_minutes:g} minutes"
                    raise StartFailed(f"not up after {minutes} (generation.start_minutes)", kind="hardware")
                await asyncio.sleep(0.5)
        server.facts["context"] = int(models.json()["data"][0]["max_model_len"])
        server.facts["parts"] = start_parts(written(server.facts), time.time() - began)
        return server
    except BaseException:
        server.kill()
        raise


@asynccontextmanager
async def compiling(arguments: Mapping[str, Any], tick: Callable[[], None]) -> AsyncIterator[None]:
    """Compile for a server: alone if this shape has not been compiled before, else at once.

    Of a hundred shards that start together the first compiles, and the others
    wait and find it done. It ends with compiling, not with the start.
    """
    name = digest([arguments, gpus()[:1]])
    done = cache_folder() / f"compiled-{name}"
    if arguments["enforce_eager"] or done.exists():
        yield
        return
    async with locked(done.with_name(f"compiling-{name}.lock"), _COMPILE_PATIENCE, tick, "another task to compile"):
        if not done.exists():
            yield
            done.touch()
            return
    yield
