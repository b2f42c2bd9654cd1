"""Generation with vLLM servers: requests go out the moment a debate makes them, and wake it when they are answered.

Adapters of all agents are served by one server, or by as many alike as the
profile has engines; whole checkpoints by as many servers side by side as fit,
else one after the other, each for as long as it has requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from hpcmaf.cores import gpus
from hpcmaf.engines.base import Completion, Request, ServedModels, until_quiet
from hpcmaf.engines.client import ServerError
from hpcmaf.engines.engine import BaseEngine, Prompts
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.options import VllmOptions
from hpcmaf.engines.pool import ServerPool
from hpcmaf.engines.server import Server, find
from hpcmaf.errors import EngineError

_LOOK_SECONDS = 2.0
_METRICS = {
    "vllm:generation_tokens_total": "tokens",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache",
    "vllm:prefix_cache_hits_total": "hits",
    "vllm:prefix_cache_queries_total": "queries",
}
_NOW = 20  # samples
# Servers that engines of this process left running for the next one.
_kept: list[Server] = []


class VllmEngine(BaseEngine):
    """An ``Engine`` on vLLM servers; see ``BaseEngine`` for what is not said here.

    Parameters
    ----------
    served, options
        Base and agents, and what the profile says of the servers.
    keep
        Whether servers run on after :meth:`close`, for the next engine of this process.
    priority
        Requests of lower values go first on servers that tasks share.
    settings
        Where servers are, and with how much they start: those of ``ServerPool``.
    """

    def __init__(
        self, served: ServedModels, options: VllmOptions | None = None, *, journal: Journal | None = None,
        on_batch: Callable[[int], None] | None = None, keep: bool = False, priority: int = 0, **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(Prompts(served), journal, on_batch)
        self.pool = ServerPool(served, options or VllmOptions(), self.prompts, self.check, **settings)
        self.gpus = self.pool.gpus
        self._full, self._keep, self._priority = served.tuning == "full", keep, priority
        self.meter, self._look = Meter(), 0.0
        # Servers of the same weights, and the number of each problem, which decides on the one that reads it.
        self._groups: dict[str | None, Sequence[Server]] = {}
        self._problems: dict[str, int] = {}
        self._locks: dict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Give the servers back, and write what is not written yet."""
        used = [int(row[0]) << 20 for row in gpus("memory.used")] if self.gpus else []
        self.peak_memory_bytes = max([self.peak_memory_bytes, *used])
        for key, group in list(self._groups.items()):
            if self._keep:
                _kept.extend(filter(None, (find(one.folder) for one in group)))
            self._give_back(key)
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
        body["model"] = self.pool.names.get(request.model or "", "base")
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
                    self.pool.replace(server, error)
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
        parts = {f"start_{name.replace(' ', '_')}": seconds for name, seconds in self.pool.parts.items()}
        return self.meter.averages() | parts

    # --- servers -----------------------------------------------------------
    async def _group(self, key: str | None) -> Sequence[Server]:
        """The servers that hold a checkpoint, once they are up; started in the order in which they are asked for."""
        async with self._locks[key]:
            self.check()
            if key not in self._groups:
                async with self._turn:
                    await self._make_room()
                    self._groups[key] = await self.pool.connect(key)
            return self._groups[key]

    async def _make_room(self) -> None:
        """Wait until there is capacity for servers of one more checkpoint."""
        await until_quiet(lambda: self.open)
        while len(self._groups) >= self.pool.capacity:
            idle = [key for key, group in self._groups.items() if not any(one.client.open for one in group)]
            if idle:
                self._give_back(idle[0])
            else:
                await asyncio.sleep(0.02)
                await until_quiet(lambda: self.open)

    def _give_back(self, key: str | None) -> None:
        for server in self._groups.pop(key):
            server.close()


class Meter:
    """Tells what bounds a stage, from the metrics that vLLM servers publish."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, Counter[str]]] = []

    def add(self, pages: Sequence[str]) -> None:
        """Take the servers' pages of now."""
        if not pages:
            return
        values = Counter[str]()
        for line in "\n".join(pages).splitlines():
            if name := _METRICS.get(line.partition("{")[0]):
                values[name] += float(line.rpartition(" ")[2])
        values["cache"] /= len(pages)
        if self._samples and values["tokens"] < self._samples[-1][1]["tokens"]:
            self._samples.clear()  # a server that was started anew counts from zero
        self._samples.append((time.monotonic(), values))

    def note(self) -> str:
        """One line on what goes on now."""
        if len(self._samples) < 2:
            return ""
        now, stage, last = self._over(self._samples[-_NOW:]), self._over(self._samples), self._samples[-1][1]
        line = f"{now['tokens_per_second']:,.0f} tokens/s now, {stage['tokens_per_second']:,.0f} over the stage, "
        line += f"{last['running']:.0f} running, {last['waiting']:.0f} waiting, KV cache {last['cache']:.0%}"
        return f"{line}, prefix hits {now['prefix_hits']:.0%}"

    def averages(self) -> dict[str, float]:
        """Means over the stage."""
        return self._over(self._samples) if len(self._samples) > 1 else {}

    @staticmethod
    def _over(samples: Sequence[tuple[float, Counter[str]]]) -> dict[str, float]:
        (began, first), (now, last) = samples[0], samples[-1]
        hits = (last["hits"] - first["hits"]) / max(1, last["queries"] - first["queries"])
        rate = (last["tokens"] - first["tokens"]) / max(1e-9, now - began)
        averages = {"tokens_per_second": rate, "prefix_hits": hits}
        averages |= {k: sum(values[k] for _, values in samples) / len(samples) for k in ("running", "waiting", "cache")}
        return {name: round(value, 3) for name, value in averages.items()}
