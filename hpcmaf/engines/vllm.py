"""Generation with vLLM servers: requests go out the moment a debate makes them, and wake it when they are answered.

Adapters of all agents are served by one server, or by as many alike as the
profile has engines; whole checkpoints by as many servers side by side as fit,
else one after the other, each for as long as it has requests.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcmaf.cores import gpus
from hpcmaf.engines import server as servers
from hpcmaf.engines.adapters import MixedUp, adapter_shape, check_identity, load_adapters, serving_names
from hpcmaf.engines.base import Completion, Diverged, Request, ServedModels, until_quiet
from hpcmaf.engines.basemodel import pick_device
from hpcmaf.engines.client import HttpEngine, ServerError
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.metrics import Meter
from hpcmaf.engines.options import AdapterShape, VllmOptions, smaller
from hpcmaf.engines.prompts import Prompts
from hpcmaf.engines.server import Server
from hpcmaf.engines.starting import StartFailed, checkpoints_per_gpu, gpus_of, start
from hpcmaf.errors import EngineError, FailureKind, OutOfMemory
from hpcmaf.files.locking import locked

_LOOK_SECONDS = 2.0
_STALLED_SECONDS = 900.0
_PAUSE_SECONDS = 5.0
# Servers that engines of this process left running for the next one.
_kept: list[Server] = []


@dataclass(eq=False)
class _Group:
    """Servers of the same weights, and which of them has read a problem before."""

    key: str | None
    servers: Sequence[Server]
    slots: asyncio.Semaphore
    homes: dict[str, Server] = field(default_factory=dict)

    @property
    def open(self) -> int:
        return sum(one.client.open for one in self.servers)

    def choose(self, key: str) -> Server:
        """The server that knows a problem, while it is not much busier than the least busy one."""
        problem, idlest = key.partition("/")[0], min(self.servers, key=lambda one: one.client.open)
        home = self.homes.get(problem, idlest)
        busier = home.client.open - idlest.client.open
        self.homes[problem] = home if busier <= max(8, idlest.client.open // 4) else idlest
        return self.homes[problem]

    def close(self) -> None:
        for one in self.servers:
            one.close()


class VllmEngine(HttpEngine):
    """An ``Engine`` on vLLM servers; nothing is started before something has to be completed.

    Parameters
    ----------
    served
        Base and agents.
    options
        What the profile says of the servers.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    journal, on_batch
        See ``HttpEngine``.
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
    keep
        Whether servers run on after :meth:`close`, for the next engine of this process.
    priority
        Requests of lower values go first on servers that tasks share.
    """

    def __init__(
        self, served: ServedModels, options: VllmOptions | None = None, *, device: str = "auto",
        journal: Journal | None = None, on_batch: Callable[[int], None] | None = None, run: Path | None = None,
        log: Path | None = None, room: AdapterShape | None = None, halvings: int = 0, bases: int = 1,
        keep: bool = False, priority: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(journal, on_batch)
        self.served, self.prompts = served, Prompts(served)
        self.device, self.options = pick_device(device).type, (options or VllmOptions()).shared_by(bases)
        if self.options.reproducible and self.device != "cuda":
            reason = "vLLM's batch invariance needs a GPU; on a CPU use engine: transformers"
            raise EngineError(f"generation.reproducible: {reason}")
        self.gpus = self.options.gpus if self.device == "cuda" else 0
        shared = os.environ.get(servers.SHARED) or (str(run.resolve()) if run else None)
        self.folder = servers.servers_folder(shared or f"process {os.getpid()} {time.time_ns()}")
        self.log = log or self.folder / "server.log"
        self._full, self._priority = served.tuning == "full", priority
        self._adapters = {} if self._full else served.agents
        self._names = serving_names(self._adapters)
        room = room or (adapter_shape(self._adapters) if self._adapters else None)
        # Wrapping the output layer breaks prompt likelihoods.
        for module in {"lm_head", "embed_tokens"} & set(room.modules if room else ()):
            raise EngineError(f"vLLM serves no adapter on {module}; use generation.engine: transformers")
        self._arguments = self.options.arguments(served, self.device, room)
        self.capacity = checkpoints_per_gpu(served, self.options, self.device) if self._full else 1
        if self.capacity > 1:
            share = self._arguments["gpu_memory_utilization"] / self.capacity
            self._arguments["gpu_memory_utilization"] = round(share, 3)
        self._side_by_side = self.capacity + bases - 1  # servers of all bases on a GPU
        for _ in range(halvings):
            self._arguments |= smaller(self._arguments, "out of memory") or {}
        self._keep = keep
        self._wanted, self._again = servers.digest(self._arguments), False
        # A little more than fills a server's steps, so that it never waits for this process.
        step = self._arguments["max_num_seqs"]
        self._most = step + max(64, step // 4)
        self.parts: Mapping[str, float] = {}
        self.meter, self._look = Meter(), 0.0
        self._groups: dict[str | None, _Group] = {}
        self._starting: dict[str | None, asyncio.Task[_Group]] = {}
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Give the servers back, and write what is not written yet."""
        used = [int(row[0]) << 20 for row in gpus("memory.used")] if self.gpus else []
        self.peak_memory_bytes = max([self.peak_memory_bytes, *used])
        for group in self._groups.values():
            if self._keep:
                _kept.extend(found for one in group.servers if (found := servers.find(one.folder)) is not None)
            group.close()
        while _kept and not self._keep:
            _kept.pop().close()
        self._groups = {}
        super().close()

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``HttpEngine``."""
        return await self.prompts.complete(request, super().complete, self._on_batch)

    async def answer(self, request: Request) -> Completion:
        """Complete a request."""
        prompt, sampling = self.prompts.ids(request), request.sampling
        body: dict[str, Any] = {
            "prompt": prompt,
            "seed": request.seed % 2**63 if sampling.temperature > 0 else None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "priority": self._priority,
            **sampling.further,
        }
        body |= {"logprobs": 0, "prompt_logprobs": 0} if request.logprobs else {}
        while True:
            self.check()
            group = await self._group(request.model if self._full else None)
            room = min(self.prompts.context, group.servers[0].facts["context"]) - len(prompt)
            if room <= 0:
                return Completion("", (), len(prompt), "length")
            body["max_tokens"] = 1 if request.scored else min(sampling.max_new_tokens, room)
            async with group.slots:
                server = group.choose(request.key)
                body["model"] = self._names.get(request.model or "", "base")
                try:
                    made = await server.client.completion(body, self.prompts.stop_ids)
                    break
                except ServerError as error:
                    if error.status and server.alive:
                        log = server.facts["log"]
                        raise EngineError(f"vLLM refuses {request.key}: {error}; see {log}") from error
                    self._replace(group, server, error)
        tokens, logprobs = ([], ()) if request.scored else (list(made.token_ids), made.logprobs)
        likelihoods = {"logprobs": logprobs, "prompt_logprobs": made.prompt_logprobs}
        return self.prompts.completion(request, len(prompt), tokens, **likelihoods)

    async def watch(self) -> None:
        """Read the servers' metrics; end one that has stopped making tokens, so that its requests notice."""
        if time.monotonic() < self._look:
            return
        self._look = time.monotonic() + _LOOK_SECONDS
        used = [server for group in self._groups.values() for server in group.servers]
        if used:
            pages = (one.client.request("GET", "/metrics", timeout=30) for one in used)
            self.meter.add([page for page in await asyncio.gather(*pages, return_exceptions=True) if type(page) is str])
        if not any(one.client.open for one in used):
            self.meter.moved = time.monotonic()
        if time.monotonic() - self.meter.moved > _STALLED_SECONDS:
            for one in used:
                servers.clean(one.folder)

    def note(self) -> str:
        """What there is to say of the work in progress."""
        return self.meter.note() if self._groups else "starting vLLM"

    def means(self) -> dict[str, Any]:
        """What there is to say of the whole."""
        return self.meter.means() | {f"start_{name.replace(' ', '_')}": value for name, value in self.parts.items()}

    # --- servers -----------------------------------------------------------
    async def _group(self, key: str | None) -> _Group:
        """The servers that hold a checkpoint, once they are up."""
        if key in self._groups:
            return self._groups[key]
        if key not in self._starting:
            self._starting[key] = asyncio.create_task(self._start_group(key))
        return await asyncio.shield(self._starting[key])

    async def _start_group(self, key: str | None) -> _Group:
        """Start servers, in the order in which they are asked for and as capacity allows."""
        try:
            async with self._turn:
                await until_quiet(lambda: self.open)
                while len(self._groups) >= self.capacity:
                    if idle := [group for group in self._groups.values() if not group.open]:
                        self._groups.pop(idle[0].key).close()
                    else:
                        await asyncio.sleep(0.02)
                        await until_quiet(lambda: self.open)
                found = await asyncio.gather(*(self._connect(key, n) for n in range(self.options.engines)))
                self._groups[key] = _Group(key, found, asyncio.Semaphore(self._most * len(found)))
                return self._groups[key]
        finally:
            del self._starting[key]

    async def _connect(self, key: str | None, number: int) -> Server:
        """Find or start a server, with the adapters on it and tested."""
        devices, names = gpus_of(self.options, self.device, number), self._names
        where = self.folder / servers.digest([devices or os.environ.get("CUDA_VISIBLE_DEVICES"), number])
        where.mkdir(mode=0o700, exist_ok=True)
        name, rests = servers.digest([self._wanted, key]), self.options.rests(self.device, self.served.tuning)
        async with locked(where / "lock", None, self.check, "another task to start its vLLM server"):
            server = await servers.running(where, name, self._side_by_side, rests == "sleep")
            fresh = server is None
            facts = {"spec": name, "while_training": rests}
            server = server or await self._start(key, number, facts, where, devices)
        tested = server.folder / f"tested-{servers.digest(sorted(names.values()))}"
        server.connect(self._most)
        try:
            await load_adapters(server.client, self._adapters, names)
            if not tested.exists():
                context, precise = server.facts["context"], self.served.dtype == "float32"
                models = [None, *names.values()]
                await check_identity(server.client, self.prompts, models, context=context, precise=precise)
                tested.touch()
            return server
        except BaseException as error:
            server.close()
            again = not fresh and (isinstance(error, MixedUp) or getattr(error, "status", None) == 0)
            if again or isinstance(error, Diverged):
                servers.clean(server.folder)  # what a diverged model left in its cache would spoil others' numbers
            if not again:
                raise
            servers.say(f"{error}; starting another server")
            return await self._connect(key, number)

    async def _start(
        self, key: str | None, number: int, facts: Mapping[str, Any], where: Path, devices: str | None
    ) -> Server:
        """Start a server: once more where that fails, with less where memory ran out."""
        options, model = self.options, self.served.base if key is None else self.served.agents[key]
        if self._full and Path(model).is_dir() and not self.served.trust_remote_code:
            # vLLM takes the model's path for part of what decides how it is compiled.
            link = where / f"model{len(list(where.glob('s*/server.json')))}"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(model).resolve())
            model = str(link)
        log = self.log if options.engines == 1 else self.log.with_stem(f"{self.log.stem}-{number}")
        environment = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        while True:
            arguments = self._arguments | {"model": model} | ({} if key is None else {"revision": None})
            try:
                server = await start(options, arguments, facts, where, log, environment, self.check)
                self.parts = server.facts["parts"]
                return server
            except StartFailed as failure:
                pause = self._try_again("cannot start", str(failure), failure.kind, log)
            for _ in range(int(pause)):
                self.check()
                await asyncio.sleep(1)

    def _try_again(self, what: str, reason: str, kind: FailureKind, log: object) -> float:
        """Choose what to try after a failure, and say so, or raise it; returns the seconds to wait before."""
        if kind == "memory" and self._again:
            remedy = "lower generation.max_num_seqs or max_model_len"
            raise OutOfMemory(f"vLLM {what}: {reason}; {remedy} (log: {log})")
        if kind == "refused" or self._again:
            raise EngineError(f"vLLM {what}: {reason}; see {log}", kind=kind)
        self._again = True
        if kind == "memory" and (less := smaller(self._arguments, reason)):
            changes = ", ".join(f"{name} {value}" for name, value in less.items())
            servers.say(f"vLLM has too little memory ({reason[:200]}); starting it with {changes}")
            self._arguments |= less
            return 0.0
        servers.say(f"vLLM {what} ({reason[:200]}); starting it once more")
        # Memory of the job before is given back within a minute.
        return 60.0 if "Free memory on device" in reason else _PAUSE_SECONDS

    def _replace(self, group: _Group, server: Server, error: ServerError) -> None:
        """Have a server started again that has died: with less where memory ran out, else once."""
        if self._groups.get(group.key) is not group:
            return  # another request noticed before
        del self._groups[group.key]
        reason, kind = servers.read_failure(servers.written(server.facts)[-20_000:])
        servers.clean(server.folder)
        group.close()
        reason = reason if kind == "memory" or "Error" in reason else f"its process ended, {error}"
        what = f"stopped working{' a second time' * self._again}"
        self._try_again(what, reason, "memory" if kind == "memory" else "hardware", self.log)
