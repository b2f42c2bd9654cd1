"""How fast one agent is finetuned: this engine, TRL's SFTTrainer, and the GPU itself, in one run.

    python tests/benchmarks/bench_training.py [--gpus 1] [--layers 32] [--tokens 100000] [--arms ours,trl-packed,...]

A model of Llama-3-8B's shape with random weights, LoRA of rank 16 on all
linear layers, texts as long as critics' data (log-normal, median 700, 200 to
2,048 tokens), bfloat16. One line of JSON per arm:

- ceiling: bfloat16 matrix products of this GPU, now;
- ours, ours-unpacked: a whole job through run_finetune, from start to saved adapter;
- ours-full: the same, all weights, ZeRO-3;
- apart, together: six agents as six jobs one after another, and as one job
  whose processes load the base once (ratio: together over apart);
- trl-packed, trl-flex, trl-padded: SFTTrainer under DeepSpeed ZeRO-2 with liger
  kernels and fused AdamW: packed (bfd) with SDPA or FlexAttention, or padded
  in batches of like lengths. The best of them is what to compare with.

Tokens per second count every token of every text and no padding, from the
end of the second step on; TFLOP/s are 4 per parameter and token (6 for full).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
# For the processes started below.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])

from hpcmaf.errors import HpcmafError
from hpcmaf.training.spec import FinetuneJob

LENGTHS = {"median": 700, "sigma": 0.5, "least": 200, "most": 2048}
BATCH = 16


def lengths(tokens: int, seed: int = 0) -> list[int]:
    """Text lengths that sum to about ``tokens``."""
    import math

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


def write_model(folder: Path, layers: int, width: int) -> None:
    """Random weights of Llama-3-8B's shape, made where that is fast."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.training.models import BOS_TEMPLATE, make_tokenizer

    config = LlamaConfig(
        vocab_size=128256,
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
    make_tokenizer(BOS_TEMPLATE, adds_bos=True).save_pretrained(folder)


def job_of(place: Path, gpus: int, output: Path, **settings: Any) -> FinetuneJob:
    """An agent's job on the texts of this run."""
    return FinetuneJob(
        base=str(place / "model"),
        dataset=str(place / "data.jsonl"),
        output=str(output),
        device="cuda" if gpus else "cpu",
        processes=max(1, gpus),
        batch_size=BATCH * max(1, gpus),
        learning_rate=1e-5,
        loss_spike=0,
        **{"micro_batch_size": 4, "zero_stage": 2, "epochs": 2} | settings,
    )


def ours(place: Path, gpus: int, **settings: Any) -> dict[str, Any]:
    """One job, with what it says of itself."""
    from hpcmaf.training.job import run_finetune

    name = f"ours-{time.time_ns()}"
    job = job_of(place, gpus, place / name / "out", **settings)
    began = time.time()
    report = run_finetune(job, place / name)
    wall = time.time() - began
    lines = [json.loads(line) for line in (place / name / "progress.jsonl").read_text().splitlines()]
    # Tokens so far are speed x time, as that is how the speed came about.
    begin, end = ((line["tokens_per_s"] * line["elapsed_s"], line["elapsed_s"]) for line in (lines[1], lines[-1]))
    said = [
        line
        for line in (place / name / "finetune.log").read_text().splitlines()
        if line.startswith(("training ", "packing", "zero_stage"))
    ]
    return {
        "tokens_per_s": (end[0] - begin[0]) / (end[1] - begin[1]),
        "flop_per_token": lines[-1]["tflops"] * 1e12 * job.processes / lines[-1]["tokens_per_s"],
        "peak_gib": report.peak_memory_bytes / 2**30,
        "wall_s": wall,
        "first_steps_s": lines[1]["elapsed_s"],
        "training_s": lines[-1]["elapsed_s"],
        "startup": dict(report.startup),
        "after_s": wall - report.startup_seconds - lines[-1]["elapsed_s"],
        "training_tokens": report.training_tokens,
        "losses": [report.losses[0], report.losses[-1]],
        "said": said,
    }


def agents(place: Path, gpus: int, *, together: bool, count: int = 6) -> dict[str, Any]:
    """As many agents, each from its data to its saved adapter."""
    from hpcmaf.training.job import Series, run_finetune

    name = f"agents-{time.time_ns()}"
    jobs = [
        replace(job_of(place, gpus, place / name / f"{agent}" / "out", epochs=2), agent=f"critic-{agent}")
        for agent in range(count)
    ]
    began, startup = time.time(), []
    with Series() as series:
        for at, job in enumerate(jobs):
            shared = {"series": series, "coming": jobs[at + 1] if at + 1 < count else None} if together else {}
            startup.append(round(run_finetune(job, Path(job.output).parent, **shared).startup_seconds, 2))
    return {"wall_s": time.time() - began, "agents": count, "startup_s": startup}


def trl_apart(place: Path, arm: str, gpus: int, limit: float) -> dict[str, Any]:
    """An arm of TRL's in processes of its own; what it reports, or its last words."""
    command = [sys.executable, str(Path(__file__).with_name("trl_training.py")), arm, str(place)]
    if gpus > 1:
        command[1:1] = ["-m", "torch.distributed.run", f"--nproc-per-node={gpus}"]
    else:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = "29533"
    answer = place / f"{arm}.json"
    log = place / f"{arm}.log"
    with log.open("w") as sink:
        try:
            subprocess.run(command, stdout=sink, stderr=sink, timeout=limit, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return {"failed": type(error).__name__, "log": log.read_text()[-1500:]}
        finally:
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)
    return json.loads(answer.read_text())


def ceiling() -> float:
    """TFLOP/s of this GPU's bfloat16 matrix products; in a process of its own, which frees the GPU again."""
    code = (
        "import torch; from hpcmaf.training.watching import matmul_flops as f; "
        "print(max(f(torch.device('cuda'), 8192, 20) for _ in range(3)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096, help="a multiple of 128; smaller for a trial")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--arms", default="ours,trl-packed,trl-padded,trl-flex,ours-unpacked")
    parser.add_argument("--limit", type=float, default=60, help="seconds an arm of TRL's may take")
    parser.add_argument("--until", type=float, default=150, help="no arm begins after so many seconds")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    began = time.time()
    place = options.folder or Path(tempfile.mkdtemp(prefix="bench-training-"))
    place.mkdir(exist_ok=True)
    sizes = lengths(options.tokens)
    write_data(place / "data.jsonl", sizes)
    write = f"write_model(pathlib.Path({str(place / 'model')!r}), {options.layers}, {options.width})"
    command = [sys.executable, "-c", f"import pathlib; from bench_training import write_model; {write}"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent)
    top = ceiling() if options.gpus else float("nan")
    print(json.dumps({"arm": "made", "texts": len(sizes), "tokens": sum(sizes), "seconds": time.time() - began}))
    print(json.dumps({"arm": "ceiling", "tflops": round(top / 1e12, 1)}), flush=True)
    shapes: dict[str, dict[str, Any]] = {
        "ours": {},
        "ours-one": {"gpus": 1},
        "ours-unpacked": {"packing": False},
        "ours-full": {"tuning": "full", "zero_stage": 3, "epochs": 1},
        "ours-full-one": {"tuning": "full", "zero_stage": 3, "epochs": 1, "gpus": 1},
    }
    flop, walls = None, []
    for arm in options.arms.split(","):
        if time.time() - began > options.until:
            print(json.dumps({"arm": arm, "failed": "no time left"}), flush=True)
            continue
        gpus, own = options.gpus, None
        if arm in ("apart", "together"):
            result = agents(place, gpus, together=arm == "together")
            if arm == "together" and walls:
                result["over_apart"] = result["wall_s"] / walls[-1]
            walls.append(result["wall_s"])
        elif arm.startswith("ours"):
            try:
                result = ours(place, **{"gpus": options.gpus} | shapes[arm])
            except HpcmafError as error:  # the other arms are worth having
                result = {"failed": str(error)[:1500]}
            gpus = shapes[arm].get("gpus", options.gpus)
            flop = result.get("flop_per_token", flop) if "full" not in arm else flop
            own = result.get("flop_per_token")
        else:
            result, own, gpus = trl_apart(place, arm, options.gpus, options.limit), flop, options.gpus
        if own and "tokens_per_s" in result:
            flops = result["tokens_per_s"] * own / max(1, gpus)
            result |= {"tflops_per_gpu": flops / 1e12, "ceiling_share": flops / top}
            if "training_tokens" in result:
                result["wall_over_arithmetic"] = result["wall_s"] / (
                    result["training_tokens"] * own / top / max(1, gpus)
                )
        rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}
        print(json.dumps({"arm": arm, "gpus": gpus, **rounded}), flush=True)
    if options.folder is None:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
