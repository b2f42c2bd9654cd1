"""Societies on the packaged base, for both engines; vLLM on a CPU takes heads of 32 or 64 only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hpcmaf.engines import Completion, Request, Sampling, ServedModels
from hpcmaf.micro import base_path

AGENTS = ("generator-0", "generator-1", "critic-0", "critic-1")


def lora_agents(folder: Path, names: tuple[str, ...] = AGENTS, rank: int = 4) -> dict[str, str]:
    """Random adapters, each of which speaks otherwise than the base and the others."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for number, name in enumerate(names):
        torch.manual_seed(number)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base_path()),
            LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False),
        )
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.mul_(0.3)
        model.save_pretrained(folder / name)
    return {name: str(folder / name) for name in names}


def full_agents(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Whole checkpoints: the base with some noise."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for number, name in enumerate(names):
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_pretrained(base_path())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.2)
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(base_path()).save_pretrained(folder / name)
    return {name: str(folder / name) for name in names}


def served(agents: dict[str, str] | None = None, tuning: str = "lora", base: Path | None = None) -> ServedModels:
    """The base and agents, in float32."""
    return ServedModels(str(base or base_path()), tuning, agents or {}, "float32")  # type: ignore[arg-type]


def vllm_engine(models: ServedModels, process: str = "job", **kwargs: Any) -> Any:
    """A small vLLM engine; keyword arguments of its options, and of the engine itself."""
    from hpcmaf.engines.vllm_engine import VllmEngine
    from hpcmaf.engines.vllm_options import VllmOptions

    own = {key: kwargs.pop(key) for key in ("journal", "on_batch", "environment", "halvings") if key in kwargs}
    options = VllmOptions(**({"engine_process": process, "kv_cache_gb": 0.1} | kwargs))
    return VllmEngine(models, options, device="cpu", **own)


def ask(key: str, text: str = "3+4*5+6-7*8", model: str | None = None, seed: int = 1, **more: Any) -> Request:
    """A greedy request of 40 tokens, unless told otherwise."""
    logprobs = more.pop("logprobs", False)
    sampling = Sampling(**({"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 40} | more))
    return Request(key, ({"role": "user", "content": text},), model, seed, sampling, logprobs)


def run(engine: Any, requests: list[Request]) -> list[Completion]:
    """All requests at once."""

    async def together() -> list[Completion]:
        return list(await asyncio.gather(*(engine.complete(request) for request in requests)))

    return asyncio.run(together())
