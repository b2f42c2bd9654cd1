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
from hpcmaf.engines.base import Completion, Diverged, Request, ServedModels
from hpcmaf.engines.client import Client, HttpEngine, ServerError, Unreachable
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.metrics import Meter
from hpcmaf.engines.options import AdapterShape, ServerSpec, VllmOptions
from hpcmaf.engines.prompts import Prompts, pick_device
from hpcmaf.errors import EngineError, OutOfMemory, PlatformError

_PROBES = ("What is 17 + 25 * 3 - 4?", "12+7*3+5-2*6")
_PROBE_LENGTH = 48
# As in the transformers engine: loop turns without a new request after which all debates count as waiting.
_QUIET_TURNS = 8
_LOOK_SECONDS = 2.0
_STALLED_SECONDS = 900.0


@dataclass(eq=False)
class _Connection:
    """One server, as this engine sees it; adapters' names on it, by agent."""

    server: servers.Server
    names: Mapping[str, str]
    client: Client
    in_flight: int = 0


@dataclass(eq=False)
class _Group:
    """Servers of the same weights, and which of them has read a problem before."""

    key: str | None
    connections: Sequence[_Connection]
    slots: asyncio.Semaphore
    homes: dict[str, _Connection] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        return sum(one.in_flight for one in self.connections)

    def choose(self, key: str) -> _Connection:
        """The server that knows a problem, while it is not much busier than the least busy one."""
        problem = key.partition("/")[0]
        idlest = min(self.connections, key=lambda one: one.in_flight)
        home = self.homes.get(problem, idlest)
        chosen = home if home.in_flight - idlest.in_flight <= max(8, idlest.in_flight // 4) else idlest
        self.homes[problem] = chosen
        return chosen


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
        shares them with nobody.
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
        self.device = pick_device(device).type
        self.options = options or VllmOptions()
        for _ in range(halvings):
            self.options = self.options.smaller("out of memory", self.device) or self.options
        self.gpus = self.options.engines * self.options.server_gpus if self.device == "cuda" else 0
        shared = os.environ.get(servers.SHARED) or (str(run.resolve()) if run else None)
        self.folder = servers.servers_folder(shared or f"process {os.getpid()} {time.time_ns()}")
        self.log = log or self.folder / "server.log"
        self._adapters = served.agents if served.tuning == "lora" else {}
        shape = adapter_shape(self._adapters) if self._adapters else None
        self.room = shape.joined(room) if shape and room else shape or room
        self.places = 1 if served.tuning == "lora" else self._fitting()
        self.parts: Mapping[str, float] = {}
        self.meter, self._look = Meter(), 0.0
        self._groups: dict[str | None, _Group] = {}
        self._waiting: dict[str | None, list[asyncio.Future[_Group]]] = {}
        self._crashes = 0

    def close(self) -> None:
        """Give the servers back, and write what is not written yet."""
        used = [int(row[0]) << 20 for row in gpus("memory.used")] if self.gpus else []
        self.peak_memory_bytes = max([self.peak_memory_bytes, *used])
        for group in self._groups.values():
            self._end(group)
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
        }
        body |= {"logprobs": 0, "prompt_logprobs": 0} if request.logprobs else {}
        while True:
            group = await self._group(request.model if self.served.tuning == "full" else None)
            room = min(self.prompts.context, group.connections[0].server.facts["context"]) - len(prompt)
            if room <= 0:
                return Completion("", (), len(prompt), "length")
            body["max_tokens"] = 1 if request.scored else min(sampling.max_new_tokens, room)
            async with group.slots:
                one = group.choose(request.key)
                one.in_flight += 1
                try:
                    body["model"] = one.names.get(request.model or "", "base")
                    made = await one.client.complete(body, self.prompts.stop_ids)
                    break
                except (Unreachable, ServerError) as error:
                    if isinstance(error, ServerError) and (error.status < 500 or await self._survives(one.server)):
                        log = one.server.facts["log"]
                        raise EngineError(f"vLLM refuses {request.key}: {error}; see {log}") from error
                    self._replace(group, one.server, error)
                finally:
                    one.in_flight -= 1
        tokens = [] if request.scored else list(made.token_ids)
        logprobs = made.logprobs if not request.scored else () if request.logprobs else None
        return self.prompts.completion(len(prompt), tokens, logprobs=logprobs, prompt_logprobs=made.prompt_logprobs)

    async def watch(self) -> None:
        """Read the servers' metrics; end one that has stopped making tokens, so that its requests notice."""
        if time.monotonic() < self._look:
            return
        self._look = time.monotonic() + _LOOK_SECONDS
        connections = [one for group in self._groups.values() for one in group.connections]
        if connections:
            self.meter.add(await asyncio.gather(*(one.client.text("/metrics") for one in connections)))
        if not any(one.in_flight for one in connections):
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
        self.keep_going("start", self._start_groups)
        return await future

    async def _start_groups(self) -> None:
        while self._waiting:
            await self._until_quiet()
            key = max(self._waiting, key=lambda key: (len(self._waiting[key]), str(key)))
            if len(self._groups) >= self.places and not self._make_room(len(self._waiting[key])):
                await asyncio.sleep(0.02)
                continue
            each = range(self.options.engines)
            connections = await asyncio.gather(*(self._connect(key, number) for number in each))
            group = _Group(key, connections, asyncio.Semaphore(self._in_flight * len(connections)))
            self._groups[key] = group
            for future in self._waiting.pop(key):
                if not future.done():
                    future.set_result(group)

    async def _until_quiet(self) -> None:
        quiet, size = 0, -1
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            quiet, size = (quiet + 1, size) if self.open == size else (0, self.open)

    def _make_room(self, waiting: int) -> bool:
        """End an idle group, unless as much as waits may still come for it."""
        idle = [group for group in self._groups.values() if not group.in_flight]
        if not idle or waiting < sum(group.in_flight for group in self._groups.values()):
            return False
        self._end(self._groups.pop(idle[0].key))
        return True

    @property
    def _in_flight(self) -> int:
        """Most requests at a server: a little more than fills its steps, so that it never waits for this process."""
        each = self.options.sequences(self.device) * self.options.data_parallel
        return each + max(64, each // 4)

    async def _connect(self, key: str | None, number: int) -> _Connection:
        """Find or start a server, with the adapters on it and tested."""
        visible = self._devices(number)
        environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        where = self.folder / servers.digest(visible or os.environ.get("CUDA_VISIBLE_DEVICES"))
        log = self.log if self.options.engines == 1 else self.log.with_stem(f"{self.log.stem}-{number}")
        server = await servers.obtain(self._spec(key), where, self.places, log, self.check, environment)
        self.parts = server.facts["parts"] if server.facts["log"] == str(log) else self.parts
        fresh = not any(server.folder.glob("tested-*"))
        try:
            settings, names = {**server.settings(), "timeout": None}, serving_names(self._adapters)
            client = Client(settings, uds=server.socket, in_flight=self._in_flight, alive=lambda: server.alive)
            await load_adapters(client, self._adapters, names)
            tested = server.folder / f"tested-{servers.digest(sorted(names.values()))}"
            if not tested.exists():
                room = min(_PROBE_LENGTH, server.facts["context"] // 4)
                probes = [self.prompts.chat.prompt_ids([{"role": "user", "content": text}])[:room] for text in _PROBES]
                models = [None, *names.values()]
                await check_identity(client, probes, models, self.prompts.stop_ids, server.facts["dtype"])
                tested.touch()
            return _Connection(server, names, client)
        except (MixedUp, Unreachable) as error:
            server.close()
            if fresh:
                raise
            servers.say(f"{error}; starting another server")
            servers.clean(server.folder)
            return await self._connect(key, number)
        except BaseException as error:
            server.close()
            if isinstance(error, Diverged):
                servers.clean(server.folder)  # what is left in its cache would spoil others' numbers
            raise

    def _devices(self, number: int) -> str | None:
        """GPUs of one server of several; ``None`` leaves it all there are."""
        count, each = self.options.engines, self.options.server_gpus
        if self.device != "cuda" or count == 1:
            return None
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = [str(n) for n in range(len(gpus()))] if named is None else [*filter(None, named.split(","))]
        if len(visible) < count * each:
            raise PlatformError(
                f"generation.engines: {count} servers of {each} GPU{'s' * (each > 1)} each, but this task sees "
                f"{len(visible)}; lower generation.engines, or ask for more GPUs in the profile"
            )
        return ",".join(visible[number * each : (number + 1) * each])

    def _spec(self, key: str | None) -> ServerSpec:
        served, full, options = self.served, self.served.tuning == "full", self.options
        if self.places > 1:
            share = round(options.gpu_memory_utilization / self.places, 3)
            options = options.model_copy(update={"gpu_memory_utilization": share})
        return ServerSpec(
            model=served.base if key is None else served.agents[key],
            revision=served.revision if key is None else None,
            trust_remote_code=served.trust_remote_code,
            dtype=served.dtype,
            device=self.device,
            options=options,
            adapters=None if full else self.room,
            one_of_many=full,
        )

    def _fitting(self) -> int:
        """Checkpoints that fit a GPU side by side, each with as much again for its KV cache."""
        found = gpus() if self.device == "cuda" else []
        folder = Path(next(iter(self.served.agents.values()), self.served.base))
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / self.options.tensor_parallel
        if not found or not weights:
            return 1
        memory = self.options.gpu_memory_utilization * (int(found[0][2]) << 20)
        return max(1, min(1 + len(self.served.agents), int(memory // (2 * weights + (3 << 30)))))

    async def _survives(self, server: servers.Server) -> bool:
        """Whether a server that answered with an error of its own goes on."""
        for _ in range(10):
            if not server.alive:
                return False
            await asyncio.sleep(0.5)
        return True

    def _replace(self, group: _Group, server: servers.Server, error: BaseException) -> None:
        """Have a server started again that has died: with less where memory ran out, else once."""
        if self._groups.get(group.key) is not group:
            return  # another request noticed before
        del self._groups[group.key]
        servers.clean(server.folder)
        self._end(group)
        log = Path(server.facts["log"])
        reason, kind = servers.read_failure(log.read_text(errors="replace")[-20_000:] if log.exists() else "")
        reason = reason if kind == "memory" or "Error" in reason else f"its process ended, {error}"
        smaller = self.options.smaller(reason, self.device) if kind == "memory" else None
        if smaller is not None:
            servers.say(f"vLLM ran out of memory ({reason[:200]}); starting it with {self.options.changes(smaller)}")
            self.options = smaller
        elif kind == "memory":
            raise OutOfMemory(f"vLLM ran out of memory: {reason}; lower generation.max_num_seqs or max_model_len")
        elif self._crashes:
            raise EngineError(f"vLLM stopped working a second time: {reason}; see {log}", kind="hardware")
        else:
            self._crashes += 1
            servers.say(f"vLLM stopped working ({reason[:200]}); starting it once more")

    def _end(self, group: _Group) -> None:
        for one in group.connections:
            one.server.close()
