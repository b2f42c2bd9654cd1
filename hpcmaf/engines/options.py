"""What servers are started or reached with, and with what instead when memory does not suffice."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from hpcmaf.cores import gpus
from hpcmaf.engines.base import ServedModels
from hpcmaf.errors import PlatformError
from hpcmaf.files.usercache import user_cache, writable
from hpcmaf.files.yaml import Strict

# What vLLM has kernels for.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Shorter contexts than this hold no debate worth the name.
_LEAST_CONTEXT = 512
# Hopper's attention reads a cache of one byte a number 6% faster in blocks so long than in vLLM's own of 16.
_FP8_BLOCK = 64
# Societies whose adapters a CPU server takes before it has to be replaced; see ``adapters``.
_SOCIETIES = 8


class AdapterShape(NamedTuple):
    """Room that a server keeps for the adapters of one society."""

    count: int
    rank: int
    modules: tuple[str, ...]


class VllmOptions(Strict):
    """The site's part of a server, in the profile's ``generation`` section; vLLM's own names where it has one."""

    server_command: str = Field("", description="vllm: shell that starts another environment's vllm serve")
    engines: int = Field(1, ge=1, description="vllm: servers of one task, which share its requests; one per GPU")
    engines_per_gpu: int = Field(1, ge=1, description="vllm: several, where a small model leaves a GPU idle")
    tensor_parallel: int = Field(1, ge=1, description="vllm: GPUs that share one model")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="vllm: share of a GPU's memory to use")
    max_num_seqs: int | None = Field(
        None, ge=1, description="vllm: requests of one step; 512, 1,024 with an fp8 cache, or 128 on a CPU"
    )
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
    def gpus(self) -> int:
        """GPUs that the servers of one task use, where there are any."""
        return -(-self.engines // self.engines_per_gpu) * self.tensor_parallel

    def rests(self, device: str, tuning: str) -> str:
        """What a server does while agents are trained; one whose weights change then is of no use afterwards."""
        return "share" if device != "cuda" else "stop" if tuning == "full" else self.while_training

    def devices(self, device: str, number: int) -> str | None:
        """GPUs of one of a task's servers; ``None`` leaves it all there are."""
        each = self.tensor_parallel
        if device != "cuda" or self.gpus == each:
            return None
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = [str(n) for n in range(len(gpus()))] if named is None else [*filter(None, named.split(","))]
        if len(visible) < self.gpus:
            raise PlatformError(
                f"generation.engines: {self.engines} servers take {self.gpus} GPUs, but this task sees "
                f"{len(visible)}; lower generation.engines, or ask for more GPUs in the profile"
            )
        first = number // self.engines_per_gpu * each
        return ",".join(visible[first : first + each])

    def checkpoints(self, served: ServedModels, device: str, bases: int) -> int:
        """Checkpoints that fit a GPU side by side, each with as much again for its KV cache."""
        found = gpus() if device == "cuda" and served.tuning == "full" else []
        folder = Path(next(iter(served.agents.values()), served.base))
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / self.tensor_parallel
        if not found or not weights:
            return 1
        memory = self.gpu_memory_utilization / bases * (int(found[0][2]) << 20)
        return max(1, min(1 + len(served.agents), int(memory // (2 * weights + (3 << 30)))))

    def arguments(
        self, served: ServedModels, device: str, adapters: AdapterShape | None, sharing: int = 1
    ) -> dict[str, Any]:
        """Options of ``vllm serve`` for a base with room for adapters; ``None`` leaves one to vLLM.

        ``sharing``: servers of other weights that divide a GPU's memory.
        """
        cuda, small_cache = device == "cuda", self.kv_cache_dtype.startswith("fp8")
        share = self.gpu_memory_utilization / self.engines_per_gpu / sharing
        arguments: dict[str, Any] = {
            "model": served.base,
            "served_model_name": "base",
            "revision": served.revision,
            "trust_remote_code": served.trust_remote_code or None,
            "dtype": served.dtype,
            "seed": 0,
            "max_model_len": self.max_model_len,
            # A cache of one byte a number holds twice as much.
            "max_num_seqs": self.max_num_seqs or (128 if not cuda else 1024 if small_cache else 512),
            # A server whose users watch words come takes less; here only the whole counts.
            "max_num_batched_tokens": 8192 if cuda else None,
            "tensor_parallel_size": self.tensor_parallel,
            "kv_cache_dtype": self.kv_cache_dtype,
            "enforce_eager": self.enforce_eager or not cuda or None,
            # A model's own sampling defaults must not leak in.
            "generation_config": "vllm",
            "disable_uvicorn_access_log": True,
            "scheduling_policy": "priority",  # see ``VllmEngine``
            "gpu_memory_utilization": round(share, 3) if cuda else None,
            "block_size": _FP8_BLOCK if cuda and small_cache else None,
            "enable_sleep_mode": self.rests(device, served.tuning) == "sleep" or None,
            "kv_cache_memory_bytes": None if cuda else int(self.kv_cache_gb * 2**30),
            # Of a seeded request whose prompt is spread over two steps, vLLM
            # turns the generator back, which only a GPU's can be.
            "enable_chunked_prefill": None if cuda else False,
        }
        if adapters is not None:
            arguments |= {
                "enable_lora": True,
                # On a CPU vLLM gives rows of the base the last slot's adapter, so that must stay empty.
                "max_loras": adapters.count if cuda else _SOCIETIES * adapters.count + 1,
                "max_cpu_loras": 2 * adapters.count if cuda else None,
                "max_lora_rank": next((rank for rank in _RANKS if rank >= adapters.rank), adapters.rank),
                "lora_target_modules": list(adapters.modules) or None,
            }
        return arguments | self.vllm_args

    def command(self, model: str) -> list[str]:
        """What starts a server of a model; raises PlatformError where there is no vLLM."""
        if self.server_command.strip():
            line = self.server_command.strip()
        elif find_spec("vllm") is not None:
            # The same server as `vllm serve`, a command that vLLM's CPU build does not have.
            line = f"{shlex.quote(sys.executable)} -m vllm.entrypoints.openai.api_server --model"
        elif shutil.which("vllm"):
            line = "vllm serve"
        else:
            raise PlatformError(
                "generation.engine: vllm is not installed; pip install 'hpcmaf[vllm]', name the command of another "
                "environment in generation.server_command, or choose transformers"
            )
        return ["bash", "-c", f'{line} "$@"', "vllm", model]

    def environment(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """A server's environment; the user's own settings go before ours."""
        own = {
            "VLLM_NO_USAGE_STATS": "1",
            # All workers of a server are on one host. Left to find an address of
            # their own, they hang for ever where there is no network.
            "VLLM_HOST_IP": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            # Several tasks share a node; each has as many threads as its profile says.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_STARTUP_PLAN": "1",
            # The engine's process need not import everything again; vLLM spawns it where a fork is not safe.
            "VLLM_WORKER_MULTIPROC_METHOD": "fork",
            "VLLM_CACHE_ROOT": str(cache_folder()),
            "VLLM_SERVER_DEV_MODE": str(int(bool(arguments["enable_sleep_mode"]))),
            "VLLM_BATCH_INVARIANT": str(int(self.reproducible)),
        }
        if arguments.get("max_lora_rank", 17) <= 16:
            # What was measured for vLLM's LoRA kernels; on GPUs that no file there names, its own settings hold.
            own["VLLM_TUNED_CONFIG_FOLDER"] = str(Path(__file__).with_name("lora_kernels"))
        # The key is that of somebody else's server.
        users = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        return {**own, **users, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


def smaller(arguments: Mapping[str, Any], reason: str) -> dict[str, Any] | None:
    """What to change so that less memory is needed, as vLLM's message often says; ``None`` if nothing is left."""
    share, half = arguments["gpu_memory_utilization"], arguments["max_num_seqs"] // 2
    free = re.search(r"Free memory on device \S* ?\(([\d.]+)/([\d.]+) GiB\)", reason)
    if free and share:
        fits = int((float(free[1]) - 1) / float(free[2]) * 100) / 100
        return {"gpu_memory_utilization": fits} if 0.05 < fits < share else None
    context = re.search(r"estimated maximum model length is (\d+)", reason)
    if context:
        return {"max_model_len": int(context[1])} if int(context[1]) >= _LEAST_CONTEXT else None
    if half < 8:
        return None
    if share is None:
        return {"max_num_seqs": half, "kv_cache_memory_bytes": arguments["kv_cache_memory_bytes"] // 2}
    # Where weights and activations fill its share, that must not shrink.
    less = 0.0 if "cache blocks" in reason else 0.05
    return {"max_num_seqs": half, "gpu_memory_utilization": round(share - less, 2)}


def configuration(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``vllm serve`` as its configuration file has them, the model aside."""
    if not arguments["enforce_eager"]:
        # Batch sizes recorded as graphs: every one costs time at start, a missing one some padding.
        most, sizes = arguments["max_num_seqs"], {1, 2, 4, 8, 16, *range(32, 512, 32)}
        sizes |= {most, *range(512, most, 64)}
        arguments = {"cudagraph_capture_sizes": sorted(size for size in sizes if size <= most), **arguments}
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        name = key.replace("_", "-")
        if value is False:
            found[f"no-{name}"] = True
        elif value is not None and key != "model":
            found[name] = json.dumps(value) if isinstance(value, dict) else value
    return found


def cache_folder() -> Path:
    """Folder for compiled kernels: the user's cache, or a temporary one where there is no home to write to."""
    named = os.environ.get("VLLM_CACHE_ROOT")
    return writable(Path(named), "vllm") if named else user_cache("vllm")


class Endpoint(Strict):
    """Somebody else's server of the OpenAI-compatible chat API, in the profile's ``generation`` section."""

    url: str = Field(min_length=1, description="up to and with /v1")
    model: str = Field(min_length=1, description="name of the base there")
    key_variable: str | None = Field(None, min_length=1, description="environment variable that holds the key")
    in_flight: int = Field(32, ge=1, description="most requests at once")
    timeout_seconds: float = Field(600.0, gt=0, le=1e6, description="longest wait for one answer")
    patience_minutes: float = Field(
        10.0, gt=0, le=1e6, description="how long a request that is turned away is sent again"
    )
