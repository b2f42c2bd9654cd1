"""The vLLM servers of one engine: found or started on a task's devices, with the agents' adapters loaded and tested."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from hpcmaf.cores import gpus
from hpcmaf.engines import keeper
from hpcmaf.engines import server as servers
from hpcmaf.engines.adapters import MixedUp, check_identity, load_adapters, serving_names
from hpcmaf.engines.base import Diverged, ServedModels
from hpcmaf.engines.basemodel import pick_device
from hpcmaf.engines.client import ServerError
from hpcmaf.engines.engine import Prompts
from hpcmaf.engines.options import AdapterShape, VllmOptions, cache_folder, smaller
from hpcmaf.engines.server import Server
from hpcmaf.errors import EngineError, FailureKind, OutOfMemory
from hpcmaf.files.locking import locked
from hpcmaf.files.publish import write_json

_COMPILE_PATIENCE = 20 * 60.0
_PAUSE_SECONDS = 5.0


class StartFailed(EngineError):
    """A server did not start."""


class ServerPool:
    """Finds servers of a task's own machine, or starts them; nothing is started before it is needed.

    Parameters
    ----------
    served
        Base and agents.
    options
        What the profile says of the servers.
    check
        Called about once a second while waiting; what it raises ends the start.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    run
        Run directory: its tasks on this machine share servers. ``None``
        does not share them.
    log
        What the servers write to.
    room
        For adapters of later iterations.
    halvings
        Times that memory ran out in earlier attempts.
    bases
        Of the society: each has servers of its own, and its part of the GPUs' memory.

    Attributes
    ----------
    names
        What the agents' adapters go by on a server.
    capacity
        Checkpoints that are served side by side.
    parts
        Seconds of the last start, by what they were spent on.
    """

    def __init__(
        self, served: ServedModels, options: VllmOptions, prompts: Prompts, check: Callable[[], None], *,
        device: str = "auto", run: Path | None = None, log: Path | None = None, room: AdapterShape | None = None,
        halvings: int = 0, bases: int = 1,
    ) -> None:  # fmt: skip
        self.served, self.options, self.device = served, options, pick_device(device).type
        if options.reproducible and self.device != "cuda":
            reason = "vLLM's batch invariance needs a GPU; on a CPU use engine: transformers"
            raise EngineError(f"generation.reproducible: {reason}")
        # Wrapping the output layer breaks prompt likelihoods.
        for module in {"lm_head", "embed_tokens"} & set(room.modules if room else ()):
            raise EngineError(f"vLLM serves no adapter on {module}; use generation.engine: transformers")
        self.gpus = options.gpus if self.device == "cuda" else 0
        self._prompts, self._check, self._again = prompts, check, False
        shared = os.environ.get(servers.SHARED) or (str(run.resolve()) if run else None)
        self.folder = servers.servers_folder(shared or f"process {os.getpid()} {time.time_ns()}")
        self._log = log or self.folder / "server.log"
        self._adapters = {} if served.tuning == "full" else served.agents
        self.names = serving_names(self._adapters)
        self.capacity, self.parts = options.checkpoints(served, self.device, bases), dict[str, float]()
        self.arguments = options.arguments(served, self.device, room, bases * self.capacity)
        for _ in range(halvings):
            self.arguments |= smaller(self.arguments, "out of memory") or {}
        # With less memory it is still the server that was wanted.
        self._wanted = servers.digest(self.arguments)

    async def connect(self, key: str | None) -> Sequence[Server]:
        """The servers of a checkpoint, of that of the base by ``None``, with adapters that are tested."""
        return await asyncio.gather(*(self._connect(key, number) for number in range(self.options.engines)))

    async def _connect(self, key: str | None, number: int) -> Server:
        devices, names = self.options.devices(self.device, number), self.names
        where = self.folder / servers.digest([devices or os.environ.get("CUDA_VISIBLE_DEVICES"), number])
        where.mkdir(mode=0o700, exist_ok=True)
        spec, rests = servers.digest([self._wanted, key]), self.options.rests(self.device, self.served.tuning)
        async with locked(where / "lock", None, self._check, "another task to start its vLLM server"):
            server = await servers.running(where, spec, rests == "sleep")
            fresh = server is None
            server = server or await self._start(key, number, where, spec, rests, devices)
        tested = server.folder / f"tested-{servers.digest(sorted(names.values()))}"
        # A little more than fills a server's steps, so that it never waits for this process.
        step = self.arguments["max_num_seqs"]
        server.connect(in_flight=step + max(64, step // 4))
        try:
            await load_adapters(server.client, self._adapters, names)
            if not tested.exists():
                context, precise = server.facts["context"], self.served.dtype == "float32"
                models = ["base", *names.values()]
                await check_identity(server.client, self._prompts, models, context=context, precise=precise)
                tested.touch()
            return server
        except BaseException as error:
            alive = server.alive
            server.close()
            if isinstance(error, ServerError) and error.status and alive:
                # What a server refuses is no reason to end it, as others may use it.
                raise EngineError(f"vLLM refuses its self-test: {error}; see {server.facts['log']}") from error
            if not isinstance(error, MixedUp | Diverged | ServerError):
                raise
            servers.clean(server.folder)  # what a diverged model left in its cache would spoil others' numbers
            if fresh:
                raise
            servers.say(f"{error}; starting another server")
            return await self._connect(key, number)

    def replace(self, server: Server, error: ServerError) -> None:
        """End a server that has died or hangs; the next is started with less where memory ran out, else once."""
        reason, kind = servers.read_failure(servers.written(server.facts)[-20_000:])
        servers.clean(server.folder)
        reason = reason if kind == "memory" or "Error" in reason else str(error)
        what = f"stopped working{' a second time' * self._again}"
        self._try_again(what, reason, "memory" if kind == "memory" else "hardware", server.facts["log"])

    def _try_again(self, what: str, reason: str, kind: FailureKind, log: object) -> None:
        """Choose what to try after a failure, and say so, or raise it."""
        if kind == "memory" and self._again:
            remedy = "lower generation.max_num_seqs or max_model_len"
            raise OutOfMemory(f"vLLM {what}: {reason}; {remedy} (log: {log})")
        if kind == "refused" or self._again:
            raise EngineError(f"vLLM {what}: {reason}; see {log}", kind=kind)
        self._again = True
        if kind == "memory" and (less := smaller(self.arguments, reason)):
            changes = ", ".join(f"{name} {value}" for name, value in less.items())
            servers.say(f"vLLM has too little memory ({reason[:200]}); starting it with {changes}")
            self.arguments |= less
        else:
            servers.say(f"vLLM {what} ({reason[:200]}); starting it once more")

    # --- starting one ------------------------------------------------------
    async def _start(
        self, key: str | None, number: int, where: Path, spec: str, rests: str, devices: str | None
    ) -> Server:
        """Start a server: once more where that fails, with less where memory ran out."""
        own = {"model": self.served.base if key is None else self.served.agents[key]}
        if self.served.tuning == "full" and Path(own["model"]).is_dir() and not self.served.trust_remote_code:
            # vLLM takes the model's path for part of what decides how it is compiled.
            link = where / f"model{len(list(where.glob('s*/server.json')))}"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(own["model"]).resolve())
            own["model"] = str(link)
        own |= {} if key is None else {"revision": None}
        log = self._log if self.options.engines == 1 else self._log.with_stem(f"{self._log.stem}-{number}")
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f"s{spec}", dir=where))
            try:
                server = await self._launch(folder, self.arguments | own, log, devices)
                break
            except StartFailed as failure:
                self._try_again("cannot start", str(failure), failure.kind, log)
            await asyncio.sleep(_PAUSE_SECONDS)
        server.facts["while_training"] = rests
        write_json(folder / "server.json", server.facts)
        self.parts = server.facts["parts"]
        spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.parts.items() if name != "start")
        servers.say(f"vLLM is up after {self.parts['start']:.0f} s ({spent}); its log: {log}")
        return server

    async def _launch(self, folder: Path, arguments: Mapping[str, Any], log: Path, devices: str | None) -> Server:
        """Start a server, and wait until it answers; raises StartFailed, with one line, if it does not."""
        log.parent.mkdir(parents=True, exist_ok=True)
        key = secrets.token_hex(16)
        server = Server(folder, use=True)
        server.facts = {"key": key, "log": str(log), "log_offset": log.stat().st_size if log.exists() else 0}
        # Not in the environment, which decides for vLLM whether what it has compiled still fits; nor where ps shows it.
        settings = folder / "vllm.yaml"
        settings.write_text(f"api-key: {key}\n")
        command = [sys.executable, "-I", keeper.__file__, str(folder), str(log), *self.options.command(arguments)]
        command += ["--config", str(settings), "--uds", server.socket]
        variables = self.options.environment(arguments) | ({"CUDA_VISIBLE_DEVICES": devices} if devices else {})
        try:
            async with AsyncExitStack() as alone:
                await alone.enter_async_context(compiling(arguments, self._check))
                began = time.time()
                keeping = subprocess.Popen(command, env=variables, start_new_session=True, stdin=subprocess.DEVNULL)
                while not (folder / "pid").exists() and keeping.poll() is None:
                    await asyncio.sleep(0.05)
                server.facts["context"] = await self._until_up(server, alone)
            server.facts["parts"] = servers.start_parts(servers.written(server.facts), time.time() - began)
            return server
        except BaseException:
            server.close()
            servers.clean(folder)
            raise

    async def _until_up(self, server: Server, alone: AsyncExitStack) -> int:
        """Wait until a server answers; returns the context. Others may start once it has compiled."""
        deadline = time.monotonic() + 60 * self.options.start_minutes
        while server.alive:
            self._check()
            if "compile" in servers.start_parts(servers.written(server.facts), 0.0):
                await alone.aclose()
            if models := await asyncio.to_thread(server.call, "GET", "/v1/models"):
                return int(models.json()["data"][0]["max_model_len"])
            if time.monotonic() > deadline:
                minutes = f"{self.options.start_minutes:g} minutes"
                raise StartFailed(f"not up after {minutes} (generation.start_minutes)", kind="hardware")
            await asyncio.sleep(0.5)
        reason, kind = servers.read_failure(servers.written(server.facts))
        raise StartFailed(reason, kind=kind)


@asynccontextmanager
async def compiling(arguments: Mapping[str, Any], tick: Callable[[], None]) -> AsyncIterator[None]:
    """Compile for a server: alone if this shape has not been compiled before, else at once.

    Of a hundred shards that start together the first compiles, and the others
    wait and find it done. It ends with compiling, not with the start.
    """
    name = servers.digest([arguments, gpus()[:1]])
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
