"""What servers are started or reached with, and with what instead when memory does not suffice."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import Field

from hpcmaf.files.yaml import Strict

# What vLLM has kernels for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Shorter contexts than this hold no debate worth the name.
_LEAST_CONTEXT = 512
# Hopper's attention reads a cache of one byte a number 6% faster in blocks so long than in vLLM's own of 16.
_FP8_BLOCK = 64
# Societies whose adapters a CPU server takes before it has to be replaced; see ``adapters``.
_SOCIETIES = 8


class VllmOptions(Strict):
    """The site's part of a server, in the profile's ``generation`` section; vLLM's own names where it has one."""

    server_command: str = Field("", description="vllm: shell that starts another environment's vllm serve")
    engines: int = Field(1, ge=1, description="vllm: servers of one task, which share its requests; one per GPU")
    tensor_parallel: int = Field(1, ge=1, description="vllm: GPUs that share one model")
    data_parallel: int = Field(1, ge=1, description="vllm: copies of the model in one server")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="vllm: share of a GPU's memory to use")
    max_num_seqs: int | None = Field(
        None, ge=1, description="vllm: requests of one step; 512, 1,024 with an fp8 cache, or 128 on a CPU"
    )
    max_num_batched_tokens: int | None = Field(None, ge=1, description="vllm: tokens of one step; 8,192 on a GPU")
    max_model_len: int | None = Field(None, ge=1, description="vllm: context, where the model's own is too long")
    kv_cache_gb: float = Field(1.0, gt=0, description="vllm: GiB of KV cache on a CPU")
    kv_cache_dtype: str = Field("auto", description="vllm: such as fp8")
    enforce_eager: bool = Field(False, description="vllm: no CUDA graphs, no compiling")
    reproducible: bool = Field(False, description="vllm: the same numbers whatever a request is batched with")
    while_training: Literal["sleep", "stop", "share"] = Field(
        "sleep", description="vllm: what a server does while agents are trained on its GPU"
    )
    start_minutes: float = Field(30.0, gt=0, le=1e6, description="vllm: longest time that a start may take")
    vllm_args: dict[str, Any] = Field({}, description="vllm: further options of vllm serve")

    @property
    def server_gpus(self) -> int:
        """GPUs of one server."""
        return self.tensor_parallel * self.data_parallel

    def sequences(self, device: str) -> int:
        """Requests in one step of one copy of the model."""
        return self.max_num_seqs or (128 if device != "cuda" else 1024 if self.small_cache else 512)

    @property
    def small_cache(self) -> bool:
        """Whether the cache takes one byte a number, so that it holds twice as much."""
        return self.kv_cache_dtype.startswith("fp8")

    def smaller(self, reason: str, device: str) -> VllmOptions | None:
        """Options that need less memory, as vLLM's message often says; ``None`` when nothing is left to give up."""
        free = re.search(r"Free memory on device \S* ?\(([\d.]+)/([\d.]+) GiB\)", reason)
        if free:
            share = int((float(free[1]) - 1) / float(free[2]) * 100) / 100
            return self._with(gpu_memory_utilization=share) if 0.05 < share < self.gpu_memory_utilization else None
        context = re.search(r"estimated maximum model length is (\d+)", reason)
        if context:
            return self._with(max_model_len=int(context[1])) if int(context[1]) >= _LEAST_CONTEXT else None
        half = self.sequences(device) // 2
        if half < 8:
            return None
        if device == "cpu":
            return self._with(max_num_seqs=half, kv_cache_gb=self.kv_cache_gb / 2)
        tokens = max(2048, (self.max_num_batched_tokens or 8192) // 2)
        # Where weights and activations fill its share, that must not shrink.
        share = self.gpu_memory_utilization - (0.0 if "cache blocks" in reason else 0.05)
        return self._with(max_num_seqs=half, max_num_batched_tokens=tokens, gpu_memory_utilization=round(share, 2))

    def _with(self, **values: Any) -> VllmOptions:
        return self.model_copy(update=values)

    def changes(self, other: VllmOptions) -> str:
        """What ``other`` has otherwise, as ``key value, key value``."""
        names = VllmOptions.model_fields
        return ", ".join(f"{k} {getattr(other, k)}" for k in names if getattr(self, k) != getattr(other, k))


class Endpoint(Strict):
    """Somebody else's server of the OpenAI-compatible chat API, in the profile's ``generation`` section."""

    url: str = Field(min_length=1, description="up to and with /v1")
    model: str = Field(min_length=1, description="name of the base there")
    models: dict[str, str] = Field({}, description="names of agents' own models there")
    key_variable: str | None = Field(None, min_length=1, description="environment variable that holds the key")
    in_flight: int = Field(32, ge=1, description="most requests at once")
    timeout_seconds: float = Field(600.0, gt=0, le=1e6, description="longest wait for one answer")
    patience_minutes: float = Field(
        10.0, gt=0, le=1e6, description="how long a request that is turned away is sent again"
    )


class AdapterShape(NamedTuple):
    """Room that a server keeps for the adapters of one society.

    Not on the output layer: wrapping that breaks prompt likelihoods.
    """

    count: int
    rank: int
    modules: tuple[str, ...]

    def joined(self, other: AdapterShape) -> AdapterShape:
        """Room for both."""
        modules = tuple(sorted({*self.modules, *other.modules}))
        return AdapterShape(max(self.count, other.count), max(self.rank, other.rank), modules)


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server: a model, room for adapters on it, and how; ``one_of_many`` if other checkpoints take turns."""

    model: str
    revision: str | None
    trust_remote_code: bool
    dtype: str
    device: str
    options: VllmOptions
    adapters: AdapterShape | None = None
    one_of_many: bool = False

    @property
    def while_training(self) -> str:
        """What the server does while agents are trained; one whose weights change then is of no use afterwards."""
        if self.device != "cuda":
            return "share"
        return "stop" if self.one_of_many else self.options.while_training

    def arguments(self) -> dict[str, Any]:
        """Options of ``vllm serve``, with underscores; ``None`` leaves one to vLLM."""
        options, cuda, shape = self.options, self.device == "cuda", self.adapters
        sequences, eager = options.sequences(self.device), options.enforce_eager or not cuda
        arguments: dict[str, Any] = {
            "served_model_name": "base",
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code or None,
            "dtype": self.dtype,
            "seed": 0,
            "max_model_len": options.max_model_len,
            "max_num_seqs": sequences,
            # A server whose users watch words come takes less; here only the whole counts.
            "max_num_batched_tokens": options.max_num_batched_tokens or (8192 if cuda else None),
            "tensor_parallel_size": options.tensor_parallel,
            "data_parallel_size": options.data_parallel,
            "kv_cache_dtype": options.kv_cache_dtype,
            "enforce_eager": eager or None,
            "cudagraph_capture_sizes": None if eager else _capture_sizes(sequences),
            # A model's own sampling defaults must not leak in.
            "generation_config": "vllm",
            "disable_uvicorn_access_log": True,
            "gpu_memory_utilization": options.gpu_memory_utilization if cuda else None,
            "block_size": _FP8_BLOCK if cuda and options.small_cache else None,
            "enable_sleep_mode": self.while_training == "sleep" or None,
            "kv_cache_memory_bytes": None if cuda else int(options.kv_cache_gb * 2**30),
            # Of a seeded request whose prompt is spread over two steps, vLLM
            # turns the generator back, which only a GPU's can be.
            "enable_chunked_prefill": None if cuda else bool(options.max_num_batched_tokens),
        }
        if shape is not None:
            arguments |= {
                "enable_lora": True,
                # On a CPU vLLM gives rows of the base the last slot's adapter, so that must stay empty.
                "max_loras": shape.count if cuda else _SOCIETIES * shape.count + 1,
                "max_cpu_loras": 2 * shape.count if cuda else None,
                "max_lora_rank": next((rank for rank in RANKS if rank >= shape.rank), shape.rank),
                "lora_target_modules": list(shape.modules) or None,
            }
        return arguments | options.vllm_args

    def words(self) -> list[str]:
        """The options as words of a command line."""
        words: list[str] = []
        for key, value in self.arguments().items():
            flag = key.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            elif isinstance(value, list):
                words += [f"--{flag}", *map(str, value)]
            elif value is not None:
                words += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
        return words


def _capture_sizes(most: int) -> list[int]:
    """Batch sizes recorded as graphs: every one costs time at start, a missing one some padding."""
    steps = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, 512, 32), *range(512, most, 64)]
    return sorted({size for size in steps if size < most} | {most})
