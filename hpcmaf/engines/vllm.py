"""Generation with vLLM servers: requests go out the moment a debate makes them, and wake it when they are answered.

Adapters of all agents are served by one server, or by as many alike as the profile has engines; whole checkpoints by as
many servers side by side as fit, else one after the other, each for as long as it has requests.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from hpcmaf.cores import gpus
from hpcmaf.engines import server as servers
from hpcmaf.engines.adapters import MixedUp, check_identity, load_adapters, serving_names
from hpcmaf.engines.base import Completion, Diverged, Request, ServedModels, until_quiet
from hpcmaf.engines.client import ServerError
from hpcmaf.engines.engine import BaseEngine, Prompts
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.options import AdapterShape, VllmOptions, smaller
from hpcmaf.engines.server import Server
from hpcmaf.engines.watching import Meter, read_failure, written
from hpcmaf.errors import EngineError, FailureKind, OutOfMemory
from hpcmaf.files.locking import locked, say
from hpcmaf.files.publish import write_json
from hpcmaf.models.basemodel import pick_device

_LOOK_SECONDS = 2.0
_PAUSE_SECONDS = 5.0
# Locks of engines of this process that left their servers running for the next one.
_kept: list[IO[str]] = []


class VllmEngine(BaseEngine):
    """An ``Engine`` on vLLM servers; see ``BaseEngine`` for what is not said here.

    Servers of the task's own machine are found, or started when they are needed.

    Parameters
    ----------
    served, options
        Base and agents, and what the profile says of the servers.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    run
        Run directory: its tasks on this machine share servers. ``None`` does not share them.
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

    Attributes
    ----------
    parts
        Seconds of the last start, by what they were spent on.
    """

    def __init__(
        self, served: ServedModels, options: VllmOptions | None = None, *, device: str = "auto",
        run: Path | None = None, log: Path | None = None, room: AdapterShape | None = None, halvings: int = 0,
        bases: int = 1, keep: bool = False, priority: int = 0, journal: Journal | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(Prompts(served), journal, on_batch)
        self.served, self.options, self.device = served, options or VllmOptions(), pick_device(device).type
        if self.options.reproducible and self.device != "cuda":
            reason = "vLLM's batch invariance needs a GPU; on a CPU use engine: transformers"
            raise EngineError(f"generation.reproducible: {reason}")
        # Wrapping the output layer breaks prompt likelihoods.
        for module in {"lm_head", "embed_tokens"} & set(room.modules if room else ()):
            raise EngineError(f"vLLM serves no adapter on {module}; use generation.engine: transformers")
        self.gpus = self.options.gpus if self.device == "cuda" else 0
        self._full, self._keep, self._priority, self._again = served.tuning == "full", keep, priority, False
        shared = os.environ.get(servers.SHARED) or (str(run.resolve()) if run else None)
        self.folder = servers.servers_folder(shared or f"process {os.getpid()} {time.time_ns()}")
        self._log = log or self.folder / "server.log"
        self._adapters = {} if self._full else served.agents
        self._names = serving_names(self._adapters)
        # Checkpoints that are served side by side.
        self._capacity = self.options.checkpoints(served, self.device, bases)
        self._arguments = self.options.arguments(served, self.device, room, bases * self._capacity)
        for _ in range(halvings):
            self._arguments |= smaller(self._arguments, "out of memory") or {}
        # With less memory it is still the server that was wanted.
        self._wanted = servers.digest(self._arguments)
        self.parts, self.meter, self._look = dict[str, float](), Meter(), 0.0
        # Servers of the same weights, and the number of each problem, which decides on the one that reads it.
        self._groups: dict[str | None, Sequence[Server]] = {}
        self._problems: dict[str, int] = {}
        self._locks: dict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turn = asyncio.Lock()
        self._lock = servers.hold(self.folder / "lock")

    def close(self) -> None:
        """Give the servers back, and write what is not written yet."""
        used = [int(row[0]) << 20 for row in gpus("memory.used")] if self.gpus else []
        self.peak_memory_bytes = max([self.peak_memory_bytes, *used])
        for key in list(self._groups):
            self._give_back(key)
        _kept.append(self._lock)
        while _kept and not self._keep:
            _kept.pop().close()
        super().close()

    async def send(self, request: Request) -> Completion:
        """Have a server complete a request; see ``BaseEngine``."""
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
        body["model"] = self._names.get(request.model or "", "base")
        key, problem = request.model if self._full else None, request.key.partition("/")[0]
        while True:
            group = await self._group(key)
            server = group[self._problems.setdefault(problem, len(self._problems)) % len(group)]
            room = min(self.prompts.context, server.facts["context"]) - len(prompt)
            if room <= 0:
                return Completion("", (), len(prompt), "length")
            body["max_tokens"] = 1 if request.scored else min(sampling.max_new_tokens, room)
            try:
                made = await server.client.completion(body, self.prompts.stop_ids)
                break
            except ServerError as error:
                if error.status and server.alive:
                    raise EngineError(f"vLLM refuses {request.key}: {error}; see {server.facts['log']}") from error
                if self._groups.get(key) is group:  # no other request has noticed before
                    self._give_back(key)
                    self._replace(server, error)
        tokens, logprobs = ((), ()) if request.scored else (made.token_ids, made.logprobs)
        likelihoods = {"logprobs": logprobs, "prompt_logprobs": made.prompt_logprobs}
        return self.prompts.completion(request, len(prompt), tokens, **likelihoods)

    async def watch(self) -> None:
        """Read the servers' metrics."""
        if time.monotonic() < self._look:
            return
        self._look = time.monotonic() + _LOOK_SECONDS
        used = [server for group in self._groups.values() for server in group]
        pages = (one.client.request("GET", "/metrics", timeout=30) for one in used)
        self.meter.add([page for page in await asyncio.gather(*pages, return_exceptions=True) if type(page) is str])

    def note(self) -> str:
        """What there is to say of the work in progress."""
        return self.meter.note() if self._groups else "starting vLLM"

    def averages(self) -> dict[str, Any]:
        """What there is to say of the whole."""
        parts = {f"start_{name.replace(' ', '_')}": seconds for name, seconds in self.parts.items()}
        return self.meter.averages() | parts

    # --- servers -----------------------------------------------------------
    async def _group(self, key: str | None) -> Sequence[Server]:
        """The servers of a checkpoint, of the base by ``None``; started in the order in which they are asked for."""
        async with self._locks[key]:
            self.check()
            if key not in self._groups:
                async with self._turn:
                    await self._make_room()
                    numbers = range(self.options.engines)
                    self._groups[key] = await asyncio.gather(*(self._connect(key, number) for number in numbers))
            return self._groups[key]

    async def _make_room(self) -> None:
        """Wait until there is capacity for servers of one more checkpoint."""
        await until_quiet(lambda: self.open)
        while len(self._groups) >= self._capacity:
            idle = [key for key, group in self._groups.items() if not any(one.client.open for one in group)]
            if idle:
                self._give_back(idle[0])
            else:
                await asyncio.sleep(0.02)
                await until_quiet(lambda: self.open)

    def _give_back(self, key: str | None) -> None:
        for server in self._groups.pop(key):
            server.close()

    async def _connect(self, key: str | None, number: int) -> Server:
        """One of a checkpoint's servers, with adapters that are tested."""
        devices = self.options.devices(self.device, number)
        where = self.folder / servers.digest([devices or os.environ.get("CUDA_VISIBLE_DEVICES"), number])
        where.mkdir(mode=0o700, exist_ok=True)
        spec, rests = servers.digest([self._wanted, key]), self.options.rests(self.device, self.served.tuning)
        async with locked(where / "lock", None, self.check, "another task to start its vLLM server"):
            server = await servers.running(where, spec, rests == "sleep")
            fresh = server is None
            server = server or await self._start(key, number, where, spec, devices)
            if fresh:
                write_json(server.folder / "server.json", server.facts | {"while_training": rests})
        # A little more than fills a server's steps, so that it never waits for this process.
        step = self._arguments["max_num_seqs"]
        server.connect(in_flight=step + max(64, step // 4))
        tested = server.folder / f"tested-{servers.digest(sorted(self._names.values()))}"
        try:
            await load_adapters(server.client, self._adapters, self._names)
            if not tested.exists():
                models, precise = ["base", *self._names.values()], self.served.dtype == "float32"
                await check_identity(server, self.prompts, models, precise=precise)
                tested.touch()
            return server
        except BaseException as error:
            if not isinstance(error, MixedUp | Diverged | ServerError):
                server.close()  # others may use it
                raise
            server.kill()  # what a diverged model left in its cache would spoil others' numbers
            if fresh:
                raise
            say(f"{error}; starting another server")
            return await self._connect(key, number)

    async def _start(self, key: str | None, number: int, where: Path, spec: str, devices: str | None) -> Server:
        """Start a server: once more where that fails, with less where memory ran out."""
        own = {"model": self.served.base if key is None else self.served.agents[key]}
        if self._full and Path(own["model"]).is_dir() and not self.served.trust_remote_code:
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
                server = await servers.launch(folder, self.options, self._arguments | own, devices, log, self.check)
                break
            except servers.StartFailed as failure:
                self._try_again("cannot start", str(failure), failure.kind, log)
            await asyncio.sleep(_PAUSE_SECONDS)
        self.parts = server.facts["parts"]
        spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.parts.items() if name != "start")
        say(f"vLLM is up after {self.parts['start']:.0f} s ({spent}); its log: {log}")
        return server

    def _replace(self, server: Server, error: ServerError) -> None:
        """End a server that has died or hangs; the next is started with less where memory ran out, else once."""
        reason, kind = read_failure(written(server.facts)[-20_000:])
        server.kill()
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
        if kind == "memory" and (less := smaller(self._arguments, reason)):
            changes = ", ".join(f"{name} {value}" for name, value in less.items())
            say(f"vLLM has too little memory ({reason[:200]}); starting it with {changes}")
            self._arguments |= less
        else:
            say(f"vLLM {what} ({reason[:200]}); starting it once more")
