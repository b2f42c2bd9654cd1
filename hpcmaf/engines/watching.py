"""What vLLM servers say of themselves: why they ended, the parts of a start, and what bounds a stage."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hpcmaf.errors import TRANSIENT, FailureKind, errno_in, kind_of_words

_METRICS = {
    "vllm:generation_tokens_total": "tokens",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache",
    "vllm:prefix_cache_hits_total": "hits",
    "vllm:prefix_cache_queries_total": "queries",
}
_NOW = 20  # samples
_LOG_PREFIX = re.compile(r"^\s*(\([^)]*\)\s*)?((ERROR|INFO|WARNING) \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?\s*")
_ERROR = re.compile(r"^[\w.]*(Error|Exception|NotFound\w*|Interrupt)\b: *\S|error: |not found$|bash: ")
_SECOND_HAND = re.compile("Engine core initialization failed|WorkerProc initialization failed|See stack trace")
_REFUSED = re.compile(
    r"unrecognized arguments|invalid choice|is greater than the derived max_model_len|are not supported"
    r"|not a valid model identifier|validation errors? for|does not appear to have a file named"
    r"|safetensorerror|error while deserializing header|no such file|not found$", re.IGNORECASE,
)  # fmt: skip
_PARTS = {
    "weights": r"Loading weights took ([\d.]+) s",
    "compile": r"torch\.compile (?:and initial profiling/warmup run together )?took ([\d.]+) s",
    "profile and cache": r"init engine \(.*?\) took ([\d.]+) s",
    "capture": r"Graph capturing finished in ([\d.]+) s",
}


def written(facts: Mapping[str, Any]) -> str:
    """What a server has written to its log, which may hold other servers' words before."""
    with suppress(OSError), open(facts["log"], "rb") as file:
        file.seek(facts["log_offset"])
        return file.read().decode(errors="replace")
    return ""


def read_failure(text: str) -> tuple[str, FailureKind]:
    """Why a server ended, in one line, and of what kind that is: memory, refused, or hardware."""
    lines = [_LOG_PREFIX.sub("", line).strip() for line in text.splitlines()]
    # Only errors have a kind: a line on how full the KV cache is does not say that memory ran out.
    errors = [line for line in lines if _ERROR.search(line) and not _SECOND_HAND.search(line)]
    # A lack of memory is the cause of what else is said, wherever it stands; otherwise the last error sums it up.
    memory = next((line for line in errors if kind_of_words(line) == "memory"), None)
    last = errors[-1] if errors else next((line for line in reversed(lines) if line), "it wrote nothing")
    kind: FailureKind = "memory" if memory else "refused" if errors and _REFUSED.search(last) else "hardware"
    reason = " ".join((memory or last).split())[:1000]
    # What a file system could not give now, however the library calls it that met it.
    return reason, "hardware" if errno_in(reason) in TRANSIENT else kind


def start_parts(text: str, seconds: float) -> dict[str, float]:
    """Seconds of a start by what they were spent on, as the server's log has them.

    ``profile and cache`` holds compiling and capturing too; ``imports and rest`` is what is left of the whole.
    """
    found = {name: [float(value) for value in re.findall(pattern, text)] for name, pattern in _PARTS.items()}
    parts = {"start": round(seconds, 1)} | {name: max(values) for name, values in found.items() if values}
    known = parts.get("weights", 0.0) + parts.get("profile and cache", 0.0)
    return parts | {"imports and rest": round(max(0.0, seconds - known), 1)}


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
