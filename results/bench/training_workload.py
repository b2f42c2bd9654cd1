"""What the arms of ``training.py`` all train: a model of Llama-3-8B's shape and texts as long as critics' data."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

LENGTHS = {"median": 700, "sigma": 0.5, "least": 200, "most": 2048}
# Sequences per optimiser step and GPU.
BATCH = 16


def lengths(tokens: int, seed: int = 0) -> list[int]:
    """Text lengths that sum to about ``tokens``."""
    draw, made = random.Random(seed), []
    while sum(made) < tokens:
        length = draw.lognormvariate(math.log(LENGTHS["median"]), LENGTHS["sigma"])
        made.append(int(min(max(length, LENGTHS["least"]), LENGTHS["most"])))
    return made


def write_data(path: Path, sizes: list[int]) -> None:
    """Chats of so many characters, which are tokens; the last answer is the last third."""
    draw = random.Random(1)
    with path.open("w") as file:
        for at, size in enumerate(sizes):
            # Marks of two turns, BOS and EOS take four.
            text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz 0123456789", k=size - 4))
            turns = [
                {"role": "user", "content": text[size // 3 :]},
                {"role": "assistant", "content": text[: size // 3]},
            ]
            file.write(json.dumps({"messages": turns, "problem_id": f"p{at}"}) + "\n")


def write_pairs(path: Path, count: int = 96) -> None:
    """Questions of 500 characters, which are tokens, with answers of 200 to 500 in either half of the alphabet."""
    draw = random.Random(1)

    def turn(role: str, letters: str, size: int) -> list[dict[str, str]]:
        return [{"role": role, "content": "".join(draw.choices(letters, k=size))}]

    with path.open("w") as file:
        for at in range(count):
            size = draw.randrange(200, 500)
            pair = {
                "prompt": turn("user", "abcdefghijklmnopqrstuvwxyz ", 500),
                "chosen": turn("assistant", "abcdefghijklm ", size),
                "rejected": turn("assistant", "nopqrstuvwxyz ", size),
                "problem_id": f"p{at}",
            }
            file.write(json.dumps(pair) + "\n")


def write_model(folder: Path, layers: int, width: int) -> None:
    """Random weights of Llama-3-8B's shape, made where that is fast; nothing where they lie already."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.tiny_models import BOS_TEMPLATE, make_tokenizer

    if (folder / "tokenizer.json").exists():
        config = json.loads((folder / "config.json").read_text())
        if (config["num_hidden_layers"], config["hidden_size"]) != (layers, width):
            raise SystemExit(f"{folder}: a model of another shape; name another --folder")
        return
    config = LlamaConfig(
        # In a small model for a trial it would be most of the work.
        vocab_size=128256 if width >= 4096 else 1024,
        hidden_size=width,
        intermediate_size=width * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        num_key_value_heads=max(1, width // 512),
        max_position_embeddings=8192,
        rope_theta=500000.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype=torch.bfloat16,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    # Last: what follows takes it for the sign that all is there.
    make_tokenizer(BOS_TEMPLATE, adds_bos=True).save_pretrained(folder)


def ceiling(size: int = 8192, repeats: int = 20) -> float:
    """TFLOP/s of this GPU's bfloat16 matrix products; no number without one."""
    import torch

    if not torch.cuda.is_available():
        return float("nan")
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out, best = torch.empty_like(a), 0.0
    for _ in range(4):  # the first to warm up
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        torch.cuda.synchronize()
        best = max(best, 2 * size**3 * repeats / (time.perf_counter() - began))
    return best / 1e12


def link(folder: Path, size: int = 1 << 30, times: int = 10) -> None:
    """Bandwidth of all-reduces between this host's GPUs, as NCCL's own tests count it; one process for each."""
    import torch
    import torch.distributed as dist

    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    numbers, count = torch.ones(size // 2, dtype=torch.bfloat16, device="cuda"), dist.get_world_size()
    for again in (3, times):
        torch.cuda.synchronize()
        began = time.time()
        for _ in range(again):
            dist.all_reduce(numbers)
        torch.cuda.synchronize()
        seconds = (time.time() - began) / again
    if rank == 0:
        rate = size / seconds * 2 * (count - 1) / count / 1e9
        (folder / "link.json").write_text(json.dumps({"all_reduce_gb_per_s": rate}))
    dist.destroy_process_group()


def main(folder: Path, layers: int, width: int) -> None:
    """Write the model and the ceiling, in a process of its own, which frees the GPU again."""
    began = time.time()
    write_model(folder / "model", layers, width)
    made: dict[str, Any] = {"seconds": time.time() - began, "tflops": ceiling()}
    (folder / "made.json").write_text(json.dumps(made))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    if sys.argv[1] == "link":
        link(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
