"""What bounds a stage, from the metrics that vLLM servers publish."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

_NAMES = {
    "vllm:generation_tokens_total": "tokens",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache",
    "vllm:prefix_cache_hits_total": "hits",
    "vllm:prefix_cache_queries_total": "queries",
}
_NOW = 20  # samples


class Meter:
    """Watches the servers of a stage."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, Counter[str]]] = []

    def add(self, pages: Sequence[str]) -> None:
        """Take the servers' pages of now."""
        if not pages:
            return
        values = Counter[str]()
        for line in "\n".join(pages).splitlines():
            if name := _NAMES.get(line.partition("{")[0]):
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

    def means(self) -> dict[str, float]:
        """Means over the stage."""
        return self._over(self._samples) if len(self._samples) > 1 else {}

    @staticmethod
    def _over(samples: Sequence[tuple[float, Counter[str]]]) -> dict[str, float]:
        (began, first), (now, last) = samples[0], samples[-1]
        hits = (last["hits"] - first["hits"]) / max(1, last["queries"] - first["queries"])
        rate = (last["tokens"] - first["tokens"]) / max(1e-9, now - began)
        means = {"tokens_per_second": rate, "prefix_hits": hits}
        means |= {k: sum(values[k] for _, values in samples) / len(samples) for k in ("running", "waiting", "cache")}
        return {name: round(value, 3) for name, value in means.items()}
