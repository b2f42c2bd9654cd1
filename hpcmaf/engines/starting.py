"""Starting a vLLM server: its command, environment and caches."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hpcmaf.cores import gpus
from hpcmaf.engines import keeper
from hpcmaf.engines.base import ServedModels
from hpcmaf.engines.options import VllmOptions, words
from hpcmaf.engines.server import Server, clean, digest, read_failure, say, start_parts, written
from hpcmaf.errors import EngineError, PlatformError
from hpcmaf.files.locking import locked
from hpcmaf.files.publish import write_json
from hpcmaf.files.usercache import user_cache, writable

_COMPILE_PATIENCE = 20 * 60.0


class StartFailed(EngineError):
    """A server did not start."""


async def start(
    options: VllmOptions, arguments: Mapping[str, Any], facts: Mapping[str, Any], where: Path, log: Path,
    environment: Mapping[str, str], tick: Callable[[], None],
) -> Server:  # fmt: skip
    """Start a server, and use it once it answers.

    Parameters
    ----------
    arguments
        Options of ``vllm serve``.
    facts
        What its later users are to know.
    where
        Folder of the servers on the same devices.
    log
        What it writes to.
    environment
        Added to its own.
    tick
        Called about once a second while waiting; what it raises ends the start.

    Raises
    ------
    StartFailed
        It ended, or was not up in time: one line.
    """
    folder, key, model = Path(tempfile.mkdtemp(prefix="s", dir=where)), secrets.token_hex(16), arguments["model"]
    log.parent.mkdir(parents=True, exist_ok=True)
    line = options.server_command.strip() or default_command()
    command = [sys.executable, "-I", keeper.__file__, str(folder), str(log), "bash", "-c", f'{line} "$@"', "vllm"]
    server = Server(folder, use=True)
    server.facts = {**facts, "key": key, "log": str(log), "log_offset": log.stat().st_size if log.exists() else 0}
    # Not in the environment, which decides for vLLM whether what it has compiled still fits; nor where ps shows it.
    settings = folder / "vllm.yaml"
    settings.write_text(f"api-key: {key}\n")
    try:
        async with AsyncExitStack() as alone:
            await alone.enter_async_context(compiling(arguments, tick))
            began = time.time()
            keeping = subprocess.Popen(
                [*command, model, "--config", str(settings), "--uds", server.socket, *words(arguments)],
                env={**_environment(options, arguments), **environment},
                start_new_session=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            while not (folder / "pid").exists() and keeping.poll() is None:
                await asyncio.sleep(0.05)
            context = await _until_up(server, 60 * options.start_minutes, tick, alone.aclose)
        parts = start_parts(written(server.facts), time.time() - began)
        server.facts |= {"context": context, "parts": parts}
        write_json(folder / "server.json", server.facts)
    except BaseException:
        server.close()
        clean(folder)
        raise
    spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in parts.items() if name != "start")
    say(f"vLLM is up after {parts['start']:.0f} s ({spent}); its log: {log}")
    return server


async def _until_up(
    server: Server, seconds: float, tick: Callable[[], None], on_compiled: Callable[[], Awaitable[None]]
) -> int:
    """Wait until a server answers; returns the context."""
    deadline = time.monotonic() + seconds
    while server.alive:
        tick()
        if "compile" in start_parts(written(server.facts), 0.0):
            await on_compiled()
        if models := await asyncio.to_thread(server.call, "GET", "/v1/models"):
            return int(models.json()["data"][0]["max_model_len"])
        if time.monotonic() > deadline:
            raise StartFailed(f"not up after {seconds / 60:g} minutes (generation.start_minutes)", kind="hardware")
        await asyncio.sleep(0.5)
    reason, kind = read_failure(written(server.facts))
    raise StartFailed(reason, kind=kind)


def _environment(options: VllmOptions, arguments: Mapping[str, Any]) -> dict[str, str]:
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
        # The engine's process need not import everything again; vLLM spawns it where a fork is not safe.
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
        "VLLM_CACHE_ROOT": str(cache_folder()),
        "VLLM_SERVER_DEV_MODE": str(int(bool(arguments["enable_sleep_mode"]))),
        "VLLM_BATCH_INVARIANT": str(int(options.reproducible)),
    }
    if arguments.get("max_lora_rank", 17) <= 16:
        # What was measured for vLLM's LoRA kernels; on GPUs that no file there names, its own settings hold.
        own["VLLM_TUNED_CONFIG_FOLDER"] = str(Path(__file__).with_name("lora_kernels"))
    environment = {**own, **os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    environment.pop("VLLM_API_KEY", None)  # the key of somebody else's server
    return environment


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


def gpus_of(options: VllmOptions, device: str, number: int) -> str | None:
    """GPUs of one of a task's servers; ``None`` leaves it all there are."""
    each = options.tensor_parallel
    if device != "cuda" or options.gpus == each:
        return None
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = [str(n) for n in range(len(gpus()))] if named is None else [*filter(None, named.split(","))]
    if len(visible) < options.gpus:
        raise PlatformError(
            f"generation.engines: {options.engines} servers take {options.gpus} GPUs, but this task sees "
            f"{len(visible)}; lower generation.engines, or ask for more GPUs in the profile"
        )
    first = number // options.engines_per_gpu * each
    return ",".join(visible[first : first + each])


def checkpoints_per_gpu(served: ServedModels, options: VllmOptions, device: str) -> int:
    """Checkpoints that fit a GPU side by side, each with as much again for its KV cache."""
    found = gpus() if device == "cuda" else []
    folder = Path(next(iter(served.agents.values()), served.base))
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / options.tensor_parallel
    if not found or not weights:
        return 1
    memory = options.gpu_memory_utilization * (int(found[0][2]) << 20)
    return max(1, min(1 + len(served.agents), int(memory // (2 * weights + (3 << 30)))))


def cache_folder() -> Path:
    """Folder for compiled kernels: the user's cache, or a temporary one where there is no home to write to."""
    named = os.environ.get("VLLM_CACHE_ROOT")
    return writable(Path(named), "vllm") if named else user_cache("vllm")


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
