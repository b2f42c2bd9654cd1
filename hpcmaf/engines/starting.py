"""Starting a vLLM server: its environment and caches, what its log says, and what is tried where a start fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hpcmaf.cores import gpus
from hpcmaf.engines import keeper
from hpcmaf.engines.client import Client, ServerError
from hpcmaf.engines.options import ServerSpec, VllmOptions
from hpcmaf.engines.server import Server, clean, digest, read_failure, running, say, start_parts, written
from hpcmaf.errors import EngineError, FailureKind, OutOfMemory, PlatformError
from hpcmaf.files.locking import locked
from hpcmaf.files.publish import write_json
from hpcmaf.files.usercache import user_cache, writable

_STARTS_WITH_LESS = 4
_PAUSE_SECONDS = 5.0
_COMPILE_PATIENCE = 20 * 60.0


class StartFailed(EngineError):
    """A server did not start."""


@dataclass
class Starter:
    """Finds an engine's servers, or starts them: with less where memory does not suffice, else once more.

    Attributes
    ----------
    options
        What to start next.
    device
        ``"cpu"`` or ``"cuda"``.
    tick
        Called about once a second while waiting; what it raises ends the start.
    less, again
        What has been tried.
    """

    options: VllmOptions
    device: str
    tick: Callable[[], None]
    less: int = 0
    again: bool = False

    async def obtain(
        self, spec: ServerSpec, where: Path, capacity: int, log: Path, environment: Mapping[str, str]
    ) -> Server:
        """Use the server that was started for a spec, or start one.

        Parameters
        ----------
        where
            Folder of the servers on the same devices.
        capacity
            Servers that fit there side by side; idle ones beyond are ended.
        log
            What a server that is started writes to.
        environment
            Added to the server's.

        Raises
        ------
        EngineError, OutOfMemory, PlatformError
            It cannot be started: one line.
        """
        where.mkdir(mode=0o700, exist_ok=True)
        name = digest(asdict(spec))
        async with locked(where / "lock", None, self.tick, "another task to start its vLLM server"):
            if found := await running(where, name, capacity, spec.while_training == "sleep"):
                return found
            while True:
                spec = replace(spec, options=self.options)
                folder = Path(tempfile.mkdtemp(prefix="s", dir=where))
                try:
                    async with _compiling(spec, self.tick):
                        return await self._start(spec, name, folder, log, environment)
                except StartFailed as failure:
                    pause = self.after("cannot start", str(failure), failure.kind, log)
                finally:
                    if not (folder / "server.json").exists():
                        clean(folder)
                for _ in range(int(pause)):
                    self.tick()
                    await asyncio.sleep(1)

    def after(self, what: str, reason: str, kind: FailureKind, log: object) -> float:
        """Choose what to try after a failure, and say so; returns the seconds to wait before.

        Raises
        ------
        EngineError, OutOfMemory
            Nothing is left to try: one line.
        """
        smaller = self.options.smaller(reason, self.device) if kind == "memory" else None
        if smaller is not None and self.less < _STARTS_WITH_LESS:
            say(f"vLLM has too little memory ({reason[:200]}); starting it with {self.options.changes(smaller)}")
            self.options, self.less = smaller, self.less + 1
            return 0.0
        if kind == "memory" and (self.again or (self.less and "Free memory" not in reason)):
            remedy = "lower generation.max_num_seqs or max_model_len"
            raise OutOfMemory(f"vLLM {what}: {reason}; {remedy} (log: {log})")
        if kind == "refused" or self.again:
            raise EngineError(f"vLLM {what}: {reason}; see {log}", kind=kind)
        self.again = True
        say(f"vLLM {what} ({reason[:200]}); starting it once more")
        # Memory of the job before is given back within a minute.
        return 60.0 if "Free memory on device" in reason else _PAUSE_SECONDS

    async def _start(
        self, spec: ServerSpec, name: str, folder: Path, log: Path, environment: Mapping[str, str]
    ) -> Server:
        """Start a server and wait until it answers."""
        if spec.options.reproducible and spec.device != "cuda":
            reason = "generation.reproducible: vLLM's batch invariance needs a GPU; on a CPU use engine: transformers"
            raise StartFailed(reason)
        began, key, model = time.time(), secrets.token_hex(16), spec.model
        log.parent.mkdir(parents=True, exist_ok=True)
        facts = {"spec": name, "key": key, "log": str(log), "log_offset": log.stat().st_size if log.exists() else 0}
        if spec.one_of_many and Path(model).is_dir() and not spec.trust_remote_code:
            # vLLM takes the model's path for part of what decides how it is compiled.
            link = folder.parent / f"model{len(list(folder.parent.glob('s*/server.json')))}"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(model).resolve())
            model = str(link)
        line = spec.options.server_command.strip() or default_command()
        command = [sys.executable, "-I", keeper.__file__, str(folder), str(log), "bash", "-c", f'{line} "$@"', "vllm"]
        server = Server(folder, use=True)
        server.facts = facts
        keeping = subprocess.Popen(
            [*command, model, "--uds", str(folder / "api.sock"), *spec.words()],
            env={**_environment(spec, key), **environment}, start_new_session=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not (folder / "pid").exists() and keeping.poll() is None:
                await asyncio.sleep(0.05)
            facts["context"] = await self._until_up(server, 60 * spec.options.start_minutes)
            text = written(facts)
            dtype = re.search(r"dtype=torch\.(\w+)", text)
            parts = start_parts(text, time.time() - began)
            facts |= {"dtype": dtype[1] if dtype else spec.dtype, "parts": parts, "while_training": spec.while_training}
            write_json(folder / "server.json", facts)
        except BaseException:
            server.close()
            raise
        spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in parts.items() if name != "start")
        say(f"vLLM is up after {parts['start']:.0f} s ({spent}); its log: {log}")
        return server

    async def _until_up(self, server: Server, seconds: float) -> int:
        """Wait until a server answers; returns the context."""
        deadline, client = time.monotonic() + seconds, Client(server.settings(), uds=server.socket, patience=0.0)
        while server.alive:
            self.tick()
            with suppress(ServerError):
                models = await client.request("GET", "/v1/models", timeout=30)
                return int(models["data"][0]["max_model_len"])
            if time.monotonic() > deadline:
                limit = f"{seconds / 60:g} minutes (generation.start_minutes)"
                raise StartFailed(f"not up after {limit}", kind="hardware")
            await asyncio.sleep(0.5)
        raise _failed(server.facts)


def _failed(facts: Mapping[str, Any]) -> StartFailed:
    reason, kind = read_failure(written(facts))
    return StartFailed(reason, kind=kind)


def _environment(spec: ServerSpec, key: str) -> dict[str, str]:
    """The server's environment; the user's own settings go before ours."""
    own = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # All workers of a server are on one host. Left to find an address of
        # their own, they hang for ever where there is no network.
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        # Several tasks share a node; each has as many threads as its profile says.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_STARTUP_PLAN": "1",
        "VLLM_CACHE_ROOT": str(cache_folder()),
        "VLLM_SERVER_DEV_MODE": str(int(spec.while_training == "sleep")),
        "VLLM_BATCH_INVARIANT": str(int(spec.options.reproducible)),
    }
    tuned = tuned_kernels(spec)
    own |= {"VLLM_TUNED_CONFIG_FOLDER": tuned} if tuned else {}
    return {**own, **os.environ, "VLLM_API_KEY": key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


def default_command() -> str:
    """The vLLM of this environment, or the one in PATH; raises PlatformError where there is none."""
    if find_spec("vllm") is not None:
        # The same server as `vllm serve`, a command that vLLM's CPU build does not have.
        return f"{shlex.quote(sys.executable)} -m vllm.entrypoints.openai.api_server --model"
    if shutil.which("vllm"):
        return "vllm serve"
    raise PlatformError(
        "generation.engine: vllm is not installed; pip install 'hpcmaf[vllm]', name the command of another environment "
        "in generation.server_command, or choose transformers"
    )


# --- caches and devices ----------------------------------------------------
def cache_folder() -> Path:
    """Folder for compiled kernels: the user's cache, or a temporary one where there is no home to write to."""
    named = os.environ.get("VLLM_CACHE_ROOT")
    return writable(Path(named), "vllm") if named else user_cache("vllm")


@asynccontextmanager
async def _compiling(spec: ServerSpec, tick: Callable[[], None]) -> AsyncIterator[None]:
    """Start a server: alone if this shape has not been compiled before, else at once.

    A hundred shards that start together would each compile the same; so the
    first does, the others wait, and find it done.
    """
    name = digest([asdict(replace(spec, model="" if spec.one_of_many else spec.model)), gpus()[:1]])
    done = cache_folder() / f"compiled-{name}"
    if spec.arguments().get("enforce_eager") or done.exists():
        yield
        return
    async with locked(done.with_name(f"compiling-{name}.lock"), _COMPILE_PATIENCE, tick, "another task to compile"):
        yield
        done.touch()


def tuned_kernels(spec: ServerSpec) -> str | None:
    """Folder of settings for vLLM's LoRA kernels, where they were measured for this GPU and rank: Hopper, rank 16."""
    found = gpus() if spec.device == "cuda" and spec.adapters and spec.adapters.rank <= 16 else []
    if not found or found[0][1] != "9.0":
        return None
    folder, name = cache_folder() / "lora-kernels", re.sub(r"[ -]", "_", found[0][0])
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for table in Path(__file__).with_name("lora_kernels").glob("*.json"):
            write_json(folder / f"{name}_{table.name}", json.loads(table.read_bytes()))
        return str(folder)
    return None
