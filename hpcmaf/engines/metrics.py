"""What bounds a stage, from the metrics that vLLM servers publish."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

_NAMES = {
    "vllm:generation_tokens_total": "tokens",
    "vllm:prompt_tokens_total": "prompt",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache",
    "vllm:prefix_cache_hits_total": "hits",
    "vllm:prefix_cache_queries_total": "queries",
}


class Meter:
    """Watches the servers of a stage; ``moved`` is when they last made or read a token."""

    def __init__(self) -> None:
        self.moved = time.monotonic()
        self._samples: list[tuple[float, Counter[str]]] = []
        self._first: tuple[float, Counter[str]] | None = None
        self._sums, self._count = Counter[str](), 0

    def add(self, pages: Sequence[str]) -> None:
        """Take the servers' pages of now."""
        now, values, copies = time.monotonic(), Counter[str](), 0
        for line in "\n".join(pages).splitlines():
            if name := _NAMES.get(line.partition("{")[0]):
                values[name] += float(line.rpartition(" ")[2])
                copies += name == "cache"
        if not copies:
            return
        values["cache"] /= copies
        if not self._samples or any(values[name] != self._samples[-1][1][name] for name in ("tokens", "prompt")):
            self.moved = now
        # A server that was started anew counts from zero.
        if self._first is None or values["tokens"] < self._first[1]["tokens"]:
            self._first, self._samples = (now, values), []
        self._samples = [*self._samples[-20:], (now, values)]
        self._sums.update({name: values[name] for name in ("running", "waiting", "cache")})
        self._count += 1

    def note(self) -> str:
        """One line on what goes on now."""
        if len(self._samples) < 2:
            return ""
        (began, first), (now, last) = self._samples[0], self._samples[-1]
        rate, hits = (last["tokens"] - first["tokens"]) / (now - began), last["hits"] / max(1, last["queries"])
        line = f"{rate:,.0f} tokens/s now, {self.means()['tokens_per_second']:,.0f} over the stage, "
        line += f"{last['running']:.0f} running, {last['waiting']:.0f} waiting, KV cache {last['cache']:.0%}"
        return f"{line}, prefix hits {hits:.0%}"

    def means(self) -> dict[str, float]:
        """Means over the stage."""
        if self._first is None or len(self._samples) < 2:
            return {}
        (began, first), (now, last) = self._first, self._samples[-1]
        rate = (last["tokens"] - first["tokens"]) / max(1e-9, now - began)
        hits = (last["hits"] - first["hits"]) / max(1, last["queries"] - first["queries"])
        means = {name: round(total / self._count, 3) for name, total in self._sums.items()}
        return {"tokens_per_second": round(rate, 1), "prefix_hits": round(hits, 3)} | means
