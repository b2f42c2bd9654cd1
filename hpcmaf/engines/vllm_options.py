"""What a vLLM engine is started with, and with what instead when memory does not suffice."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpcmaf.errors import EngineError

# What vLLM has kernels for.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Shorter contexts than this hold no debate worth the name.
_LEAST_CONTEXT = 512
# Two tokens that occurred before are little evidence, four are enough.
_LOOKUP = {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4}
# Hopper's attention reads a cache of one byte a number 6% faster in blocks so long than in vLLM's own of 16.
_FP8_BLOCK = 64
_ELSEWHERE = "use generation.engine: transformers"


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """The site's part of an engine; the profile's ``generation`` section.

    Attributes
    ----------
    engine_process
        ``"own"``: the engine has a process to itself, beside that of the
        debate; ``"job"``: a thread of the job's process.
    engines
        Engines side by side, which share the task's requests.
    tensor_parallel
        GPUs that share one model.
    gpu_memory_utilization
        Share of a GPU's memory for weights, activations and KV cache.
    max_num_seqs
        Requests in one step; ``None``: 512 on a GPU, 1,024 with an fp8 cache, 128 on a CPU.
    max_num_batched_tokens
        Tokens in one step; see :meth:`step_tokens`.
    max_model_len
        Context; ``None`` is the model's own.
    kv_cache_gb
        GiB of KV cache on a CPU.
    lookup_tokens
        Tokens that are guessed at a time, by looking up in prompt and answer
        how the last few went on before, and checked in one step; 0 guesses
        none.
    prompts_every
        Steps from one that takes new requests to the next; see
        ``vllm_admission``. ``None``: 8 on a GPU, 1 on a CPU, which has no
        graphs to lose.
    record_prompts
        Whether steps that read prompts run as recorded graphs too, all but
        their attention, filled up to a multiple of 512 tokens. It spares the
        machine starting every kernel by itself, and computes what is filled up;
        the graphs take 3 GB of an 8B model's GPU beside its share.
    fold_adapters
        Whether the adapter of the agent with most to do is added to the
        weights; see ``vllm_fold``. Not with tensor parallelism.
    arguments
        Further arguments of vLLM's ``EngineArgs``.
    """

    engine_process: str = "own"
    engines: int = 1
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    kv_cache_gb: float = 1.0
    kv_cache_dtype: str = "auto"
    enforce_eager: bool = False
    lookup_tokens: int = 0
    prompts_every: int | None = None
    record_prompts: bool = False
    fold_adapters: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def seats(self, device: str) -> int:
        """Requests in one step."""
        # 512 is the largest batch for which vLLM records graphs of its own accord.
        return self.max_num_seqs or (128 if device != "cuda" else 1024 if self.small_cache else 512)

    @property
    def small_cache(self) -> bool:
        """Whether the cache takes one byte a number, so that it holds twice as much."""
        return self.kv_cache_dtype.startswith("fp8")

    def recorded(self, device: str) -> list[int] | None:
        """Tokens of the steps that run as recorded graphs; ``None`` leaves it to vLLM, which stops at 512."""
        seats = self.seats(device)
        prompts = range(1024, (self.step_tokens(device) or 0) + 1, 512) if self.record_prompts else ()
        if device != "cuda" or self.enforce_eager or (seats <= 512 and not prompts):
            return None
        most = max(seats, 1024 if prompts else 512)
        sizes = {1, 2, 4, *range(8, 256, 8), *range(256, 513, 16), *range(512, most, 64), seats, *prompts}
        return sorted(sizes)

    def step_tokens(self, device: str) -> int | None:
        """Tokens in one step; ``None`` leaves it to vLLM."""
        # To an engine that is stepped from outside, vLLM would give the 2,048
        # that suit a server whose users watch the words come.
        return self.max_num_batched_tokens or (8192 if device == "cuda" else None)

    def pause(self, device: str) -> int:
        """Steps from one that takes new requests to the next."""
        return self.prompts_every or (8 if device == "cuda" else 1)

    def folds(self, rank: int) -> bool:
        """Whether adapters of a rank are to be folded into the weights, if the engine can."""
        # Whole weights are in one process's hands on one GPU only, and slots take both adapters' ranks.
        return self.fold_adapters and self.tensor_parallel == 1 and 2 * rank <= _RANKS[-1]

    def smaller(self, reason: str, device: str) -> VllmOptions | None:
        """Options that need less memory; ``None`` when there is nothing left to give up.

        Parameters
        ----------
        reason
            vLLM's message; it often says how much there is.
        """
        free = re.search(r"Free memory on device \S* ?\(([\d.]+)/([\d.]+) GiB\)", reason)
        if free:
            share = int((float(free[1]) - 1) / float(free[2]) * 100) / 100
            return replace(self, gpu_memory_utilization=share) if 0.05 < share < self.gpu_memory_utilization else None
        context = re.search(r"estimated maximum model length is (\d+)", reason)
        if context:
            length = int(context[1])
            return replace(self, max_model_len=length) if length >= _LEAST_CONTEXT else None
        if self.seats(device) <= 16:
            return None
        fewer = replace(self, max_num_seqs=self.seats(device) // 2)
        if device == "cpu":
            return replace(fewer, kv_cache_gb=self.kv_cache_gb / 2)
        fewer = replace(fewer, max_num_batched_tokens=max(2048, (self.max_num_batched_tokens or 8192) // 2))
        if "cache blocks" in reason:
            return fewer  # weights and activations fill its share, so that must not shrink
        return replace(fewer, gpu_memory_utilization=round(self.gpu_memory_utilization - 0.05, 2))

    def changes(self, other: VllmOptions) -> str:
        """What ``other`` has otherwise, as ``key value, key value``."""
        names = ("gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "max_model_len", "kv_cache_gb")
        return ", ".join(
            f"{name} {getattr(other, name)}" for name in names if getattr(self, name) != getattr(other, name)
        )


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: a model, the adapters on it, and how.

    Attributes
    ----------
    adapters
        Agent name to PEFT folder.
    probes
        Prompts, as token ids, of the self-test.
    stop_ids
        Tokens that end a completion.
    cache
        Folder for what vLLM compiles.
    one_of_many
        Whether other checkpoints of the same shape are served as well.
    """

    model: str
    revision: str | None
    trust_remote_code: bool
    dtype: str
    device: str
    adapters: Mapping[str, str]
    probes: tuple[tuple[int, ...], ...]
    stop_ids: tuple[int, ...]
    options: VllmOptions
    cache: str
    one_of_many: bool = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of vLLM's ``EngineArgs``.

        Raises
        ------
        EngineError
            vLLM cannot serve one of the adapters.
        """
        options = self.options
        arguments: dict[str, Any] = {
            "model": self.model,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "dtype": self.dtype,
            "seed": 0,
            "max_model_len": options.max_model_len,
            "max_num_seqs": options.seats(self.device),
            "max_num_batched_tokens": options.step_tokens(self.device),
            "tensor_parallel_size": options.tensor_parallel,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "kv_cache_dtype": options.kv_cache_dtype,
            "enforce_eager": options.enforce_eager or self.device == "cpu",
            "enable_prefix_caching": True,
            # Text is made and read on the job's side; a model's own defaults must not leak in.
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "distributed_executor_backend": "uni" if options.tensor_parallel == 1 else "mp",
        }
        if options.tensor_parallel > 1:
            arguments["worker_extension_cls"] = "hpcmaf.engines.vllm_worker.DiesWithParent"
        if options.lookup_tokens:
            arguments["speculative_config"] = _LOOKUP | {"num_speculative_tokens": options.lookup_tokens}
        sizes = options.recorded(self.device)
        if sizes:
            arguments["compilation_config"] = {"cudagraph_capture_sizes": sizes}
        if self.device == "cuda" and options.small_cache:
            arguments["block_size"] = _FP8_BLOCK
        if self.device == "cpu":
            arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gb * 2**30)
            # Of a seeded request whose prompt is spread over two steps, vLLM
            # turns the generator back, which only a GPU's can be.
            arguments["enable_chunked_prefill"] = bool(options.max_num_batched_tokens)
        if self.adapters:
            rank, modules = adapter_shape(self.adapters)
            folds = options.folds(rank)
            arguments |= {
                "enable_lora": True,
                # One more than there are: with every slot taken, vLLM on a CPU
                # gives rows of the base the last adapter.
                "max_loras": len(self.adapters) + 1 + folds,
                "max_lora_rank": next(size for size in _RANKS if size >= (2 * rank if folds else rank)),
                # Wrapping the output layer breaks prompt likelihoods.
                "lora_target_modules": modules,
            }
        return arguments | dict(options.arguments)


def adapter_shape(adapters: Mapping[str, str]) -> tuple[int, list[str]]:
    """Rank that holds all adapters, and the names of the modules they change.

    Raises
    ------
    EngineError
        A folder holds no adapter, or one that vLLM cannot serve.
    """
    from safetensors import safe_open

    rank, modules = 1, set()
    for name, folder in adapters.items():
        weights = Path(folder, "adapter_model.safetensors")
        try:
            config = json.loads(Path(folder, "adapter_config.json").read_bytes())
            with safe_open(weights, framework="np") as file:
                tensors = list(file.keys())
        except FileNotFoundError as error:
            raise EngineError(f"{folder}: holds no PEFT adapter for {name}; finetune it again") from error
        except Exception as error:  # safetensors has its own classes for damage
            raise EngineError(f"{folder}: a torn adapter for {name} ({error}); finetune it again") from error
        strange = [tensor for tensor in tensors if ".lora_A." not in tensor and ".lora_B." not in tensor]
        changed = {tensor.split(".lora_")[0].rpartition(".")[2] for tensor in tensors}
        strange += sorted(changed & {"lm_head", "embed_tokens"})
        if strange:
            raise EngineError(f"{folder}: vLLM serves no adapter that holds {strange[0]}; {_ELSEWHERE}")
        rank = max(rank, config["r"], *config.get("rank_pattern", {}).values())
        modules |= changed
    held = next((allowed for allowed in _RANKS if allowed >= rank), None)
    if held is None:
        raise EngineError(f"adapters of rank {rank}: vLLM serves up to {_RANKS[-1]}; {_ELSEWHERE}")
    return held, sorted(modules)
