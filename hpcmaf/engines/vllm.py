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
from hpcmaf.engines.client import Client, HttpEngine, ServerError
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.metrics import Meter
from hpcmaf.engines.options import AdapterShape, ServerSpec, VllmOptions
from hpcmaf.engines.prompts import Prompts
from hpcmaf.engines.starting import Starter
from hpcmaf.errors import EngineError, PlatformError

_LOOK_SECONDS = 2.0
_STALLED_SECONDS = 900.0


class _Connection(Client):
    """A client of one server, with adapters' names on it by agent."""

    def __init__(self, server: servers.Server, names: Mapping[str, str], in_flight: int) -> None:
        settings = {**server.settings(), "timeout": None}
        super().__init__(settings, uds=server.socket, in_flight=in_flight, alive=lambda: server.alive)
        self.server, self.names = server, names


@dataclass(eq=False)
class _Group:
    """Servers of the same weights, and which of them has read a problem before."""

    key: str | None
    connections: Sequence[_Connection]
    slots: asyncio.Semaphore
    homes: dict[str, _Connection] = field(default_factory=dict)

    @property
    def open(self) -> int:
        return sum(one.open for one in self.connections)

    def choose(self, key: str) -> _Connection:
        """The server that knows a problem, while it is not much busier than the least busy one."""
        problem, idlest = key.partition("/")[0], min(self.connections, key=lambda one: one.open)
        home = self.homes.get(problem, idlest)
        self.homes[problem] = home if home.open - idlest.open <= max(8, idlest.open // 4) else idlest
        return self.homes[problem]

    def close(self) -> None:
        for one in self.connections:
            one.server.close()


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
    """

    def __init__(
        self, served: ServedModels, options: VllmOptions | None = None, *, device: str = "auto",
        journal: Journal | None = None, on_batch: Callable[[int], None] | None = None, run: Path | None = None,
        log: Path | None = None, room: AdapterShape | None = None, halvings: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(journal, on_batch)
        self.served, self.prompts = served, Prompts(served)
        self.device, options = pick_device(device).type, options or VllmOptions()
        for _ in range(halvings):
            options = options.smaller("out of memory", self.device) or options
        self.gpus = options.engines * options.server_gpus if self.device == "cuda" else 0
        shared = os.environ.get(servers.SHARED) or (str(run.resolve()) if run else None)
        self.folder = servers.servers_folder(shared or f"process {os.getpid()} {time.time_ns()}")
        self.log = log or self.folder / "server.log"
        self._full = served.tuning == "full"
        self._adapters = {} if self._full else served.agents
        shape = adapter_shape(self._adapters) if self._adapters else None
        self.room = shape.joined(room) if shape and room else shape or room
        self.capacity = self._fitting(options) if self._full else 1
        self.options = options.model_copy(
            update={"gpu_memory_utilization": round(options.gpu_memory_utilization / self.capacity, 3)}
        )
        self._starter = Starter(self.options, self.device, self.check)
        # A little more than fills a server's steps, so that it never waits for this process.
        step = options.sequences(self.device) * options.data_parallel
        self._most = step + max(64, step // 4)
        self.parts: Mapping[str, float] = {}
        self.meter, self._look = Meter(), 0.0
        self._groups: dict[str | None, _Group] = {}
        self._waiting: dict[str | None, list[asyncio.Future[_Group]]] = {}
        self._starting: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Give the servers back, and write what is not written yet."""
        used = [int(row[0]) << 20 for row in gpus("memory.used")] if self.gpus else []
        self.peak_memory_bytes = max([self.peak_memory_bytes, *used])
        for group in self._groups.values():
            group.close()
        self._groups = {}
        super().close()

    async def answer(self, request: Request) -> Completion:
        """Complete a request."""
        prompt, sampling = self.prompts.ids(request), request.sampling
        body: dict[str, Any] = {
            "prompt": prompt,
            "seed": request.seed % 2**63 if sampling.temperature > 0 else None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **sampling.further,
        }
        body |= {"logprobs": 0, "prompt_logprobs": 0} if request.logprobs else {}
        while True:
            self.check()
            group = await self._group(request.model if self._full else None)
            room = min(self.prompts.context, group.connections[0].server.facts["context"]) - len(prompt)
            if room <= 0:
                return Completion("", (), len(prompt), "length")
            body["max_tokens"] = 1 if request.scored else min(sampling.max_new_tokens, room)
            async with group.slots:
                one = group.choose(request.key)
                body["model"] = one.names.get(request.model or "", "base")
                try:
                    made = await one.completion(body, self.prompts.stop_ids)
                    break
                except ServerError as error:
                    if error.status and one.server.alive:
                        log = one.server.facts["log"]
                        raise EngineError(f"vLLM refuses {request.key}: {error}; see {log}") from error
                    self._replace(group, one.server, error)
        tokens, logprobs = ([], ()) if request.scored else (list(made.token_ids), made.logprobs)
        likelihoods = {"logprobs": logprobs, "prompt_logprobs": made.prompt_logprobs}
        return self.prompts.completion(request, len(prompt), tokens, **likelihoods)

    async def watch(self) -> None:
        """Read the servers' metrics; end one that has stopped making tokens, so that its requests notice."""
        if time.monotonic() < self._look:
            return
        self._look = time.monotonic() + _LOOK_SECONDS
        connections = [one for group in self._groups.values() for one in group.connections]
        if connections:
            pages = (one.request("GET", "/metrics", timeout=30) for one in connections)
            self.meter.add([page for page in await asyncio.gather(*pages, return_exceptions=True) if type(page) is str])
        if not any(one.open for one in connections):
            self.meter.moved = time.monotonic()
        if time.monotonic() - self.meter.moved > _STALLED_SECONDS:
            for one in connections:
                servers.clean(one.server.folder)

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
        future: asyncio.Future[_Group] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_groups())
        return await future

    async def _start_groups(self) -> None:
        """Start what most requests wait for, as capacity allows."""
        try:
            while self._waiting:
                await until_quiet(lambda: self.open)
                key = max(self._waiting, key=lambda key: (len(self._waiting[key]), str(key)))
                if len(self._groups) >= self.capacity and not self._make_room(len(self._waiting[key])):
                    await asyncio.sleep(0.02)
                    continue
                each = range(self.options.engines)
                connections = await asyncio.gather(*(self._connect(key, number) for number in each))
                self._groups[key] = _Group(key, connections, asyncio.Semaphore(self._most * len(connections)))
                for future in self._waiting.pop(key):
                    if not future.done():
                        future.set_result(self._groups[key])
        except Exception as error:
            for future in sum(self._waiting.values(), []):
                if not future.done():
                    future.set_exception(error)
            self._waiting = {}

    def _make_room(self, waiting: int) -> bool:
        """End an idle group, unless as much as waits may still come for it."""
        idle = [group for group in self._groups.values() if not group.open]
        if not idle or waiting < sum(group.open for group in self._groups.values()):
            return False
        self._groups.pop(idle[0].key).close()
        return True

    async def _connect(self, key: str | None, number: int) -> _Connection:
        """Find or start a server, with the adapters on it and tested."""
        visible, served = self._devices(number), self.served
        where = self.folder / servers.digest(visible or os.environ.get("CUDA_VISIBLE_DEVICES"))
        log = self.log if self.options.engines == 1 else self.log.with_stem(f"{self.log.stem}-{number}")
        spec = ServerSpec(
            model=served.base if key is None else served.agents[key],
            revision=served.revision if key is None else None,
            trust_remote_code=served.trust_remote_code,
            dtype=served.dtype,
            device=self.device,
            options=self.options,
            adapters=None if self._full else self.room,
            one_of_many=self._full,
        )
        environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        server = await self._starter.obtain(spec, where, self.capacity, log, environment)
        self.parts = server.facts["parts"] if server.facts["log"] == str(log) else self.parts
        fresh, names = not any(server.folder.glob("tested-*")), serving_names(self._adapters)
        tested = server.folder / f"tested-{servers.digest(sorted(names.values()))}"
        client = _Connection(server, names, self._most)
        try:
            await load_adapters(client, self._adapters, names)
            if not tested.exists():
                await check_identity(client, self.prompts, [None, *names.values()], server.facts)
                tested.touch()
            return client
        except BaseException as error:
            server.close()
            again = not fresh and (isinstance(error, MixedUp) or getattr(error, "status", None) == 0)
            if again or isinstance(error, Diverged):
                servers.clean(server.folder)  # what a diverged model left in its cache would spoil others' numbers
            if not again:
                raise
            servers.say(f"{error}; starting another server")
            return await self._connect(key, number)

    def _devices(self, number: int) -> str | None:
        """GPUs of one server of several; ``None`` leaves it all there are."""
        count, each = self.options.engines, self.options.server_gpus
        if self.device != "cuda" or count == 1:
            return None
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = [str(n) for n in range(len(gpus()))] if named is None else [*filter(None, named.split(","))]
        if len(visible) < count * each:
            raise PlatformError(
                f"generation.engines: {count} servers take {count * each} GPUs, but this task sees {len(visible)}; "
                "lower generation.engines, or ask for more GPUs in the profile"
            )
        return ",".join(visible[number * each : (number + 1) * each])

    def _fitting(self, options: VllmOptions) -> int:
        """Checkpoints that fit a GPU side by side, each with as much again for its KV cache."""
        found = gpus() if self.device == "cuda" else []
        folder = Path(next(iter(self.served.agents.values()), self.served.base))
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / options.tensor_parallel
        if not found or not weights:
            return 1
        memory = options.gpu_memory_utilization * (int(found[0][2]) << 20)
        return max(1, min(1 + len(self.served.agents), int(memory // (2 * weights + (3 << 30)))))

    def _replace(self, group: _Group, server: servers.Server, error: ServerError) -> None:
        """Have a server started again that has died: with less where memory ran out, else once."""
        if self._groups.get(group.key) is not group:
            return  # another request noticed before
        del self._groups[group.key]
        reason, kind = servers.read_failure(servers.written(server.facts)[-20_000:])
        servers.clean(server.folder)
        group.close()
        reason = reason if kind == "memory" or "Error" in reason else f"its process ended, {error}"
        what = f"stopped working{' a second time' * self._starter.again}"
        self._starter.after(what, reason, "memory" if kind == "memory" else "hardware", self.log)
