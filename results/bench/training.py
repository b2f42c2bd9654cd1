"""How fast one agent is finetuned: this engine, TRL's SFTTrainer, and the GPU itself, in one run.

    python -m results.bench.training [--gpus 1] [--layers 32] [--tokens 100000] [--arms ours,trl-flex:90,...]

A model of Llama-3-8B's shape with random weights, LoRA of rank 16 on all
linear layers, texts as long as critics' data (log-normal, median 700, 200 to
2,048 tokens), bfloat16. One line of JSON per arm, as soon as it is known; an
arm has a process of its own and is killed after ``--limit`` seconds, or after
those behind its name and a colon. With ``--folder`` the model stays for the
next call.

- made: the model's writing, and the bfloat16 matrix products of this GPU, now;
  of several also the bandwidth of all-reduces between them;
- ours: a whole job through run_finetune, from start to saved adapter;
- apart, together: ``--agents`` agents as jobs one after another, and as one
  job whose processes load the base once;
- any of these with what follows its name, such as
  ours-fp8-even-one: the frozen base in fp8 or 4 bits (4bit), even batches,
  padded texts (unpacked), all weights under ZeRO-3 (full, ended after six
  steps), the optimizer's state or the weights too in the machine's memory
  (offload, params), pairs of answers in other letters instead of texts (dpo),
  on one GPU of several (one);
- trl-packed, trl-flex, trl-padded: SFTTrainer under DeepSpeed ZeRO-2 with liger
  kernels and fused AdamW: packed (bfd) with SDPA or FlexAttention, or padded
  in batches of like lengths; without checkpointing, or with it where that
  does not fit. The best of them is what to compare with.

A job's ``saved_s`` is from its start to its adapter published and on disk, and
``wall_s`` until its processes are gone too. Tokens per second count every
token of every text and no padding, from the
end of the second step on; ``whole_steps_tokens_per_s`` leaves out the steps
with what remains of an epoch, and is the one to compare several GPUs by.
TFLOP/s are 4 per parameter and token (6 for full).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# For the processes started below.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ["HF_HUB_OFFLINE"] = "1"

from results.bench.training_arms import one
from results.bench.training_workload import lengths, write_data, write_pairs


def within(command: list[str], limit: float, log: Path) -> str | None:
    """Run a command and all that it starts, for so long at most; the end of its log if it fails."""
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Jobs are in sessions of their own, and end with the process that began them.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code == 0:
        return None
    output = log.read_text(errors="replace")[-1500:]
    return f"killed after {limit:g} s: {output}" if code is None else output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096, help="a multiple of 128; smaller for a trial")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--agents", type=int, default=6)
    parser.add_argument("--arms", default="ours,trl-padded,trl-flex,trl-packed,together")
    parser.add_argument("--limit", type=float, default=75, help="seconds that an arm may take")
    parser.add_argument("--until", type=float, default=400, help="no arm goes on after so many seconds")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        arm, folder = options.one, options.folder
        answer = one(arm, folder, options.gpus, options.agents, options.limit)
        (folder / f"{arm}.answer.json").write_text(json.dumps(answer))
        return
    began = time.time()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-training-"))
    folder.mkdir(exist_ok=True, parents=True)
    sizes = lengths(options.tokens)
    write_data(folder / "data.jsonl", sizes)
    write_pairs(folder / "pairs.jsonl")
    maker = [sys.executable, "-m", "results.bench.training_workload"]
    failed = within([*maker, str(folder), str(options.layers), str(options.width)], 120, folder / "made.log")
    if failed:
        raise SystemExit(failed)
    # What the first adapters would wait for when they are synced: 16 GB of the model.
    os.sync()
    made = json.loads((folder / "made.json").read_text())
    if options.gpus > 1:
        together = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={options.gpus}"]
        failed = within([*together, *maker[1:], "link", str(folder)], 60, folder / "link.log")
        made |= {"link": failed} if failed else json.loads((folder / "link.json").read_text())
    print_line("made", 0, made | {"texts": len(sizes), "tokens": sum(sizes), "wall_s": time.time() - began})
    flop, walls = None, {}
    for choice in options.arms.split(","):
        arm, _, seconds = choice.partition(":")
        limit = min(float(seconds or options.limit), options.until - (time.time() - began))
        if limit < 10:
            print_line(arm, options.gpus, {"failed": "no time left"})
            continue
        answer = folder / f"{arm}.answer.json"
        answer.unlink(missing_ok=True)
        command = [sys.executable, "-m", "results.bench.training", "--one", arm, "--folder", str(folder)]
        command += ["--gpus", str(options.gpus), "--agents", str(options.agents), "--limit", str(limit)]
        failed = within(command, limit, folder / f"{arm}.arm.log")
        result = {"failed": failed} if failed else json.loads(answer.read_text())
        kinds = arm.split("-")[1:]
        gpus = 1 if "one" in kinds else options.gpus
        # Of the other arms, that of the adapter trained here.
        per_token = result.get("flop_per_token", flop)
        flop = per_token if arm.startswith("ours") and "full" not in kinds else flop
        alone = walls.get("-".join(["ours", *kinds]))
        print_line(arm, gpus, result | shares(result, per_token, made["tflops"] * 1e12 * max(1, gpus), alone))
        walls[arm] = result.get("wall_s")
    if options.folder is None:
        shutil.rmtree(folder)


def shares(result: dict[str, Any], flop: float | None, top: float, alone: float | None) -> dict[str, Any]:
    """An arm's speed and time over what the GPUs could do, and its time over that of jobs by themselves."""
    found: dict[str, Any] = {}
    if flop and "tokens_per_s" in result:
        flops = result["tokens_per_s"] * flop
        found |= {"tflops": flops / 1e12, "ceiling_share": flops / top}
    if flop and "training_tokens" in result:
        for end in ("wall", "saved"):
            if f"{end}_s" in result:
                found[f"{end}_over_arithmetic"] = result[f"{end}_s"] / (result["training_tokens"] * flop / top)
    if "agents" in result and alone:
        found["over_single_jobs"] = result["wall_s"] / (result["agents"] * alone)
    return found


def print_line(arm: str, gpus: int, result: dict[str, Any]) -> None:
    """One line, at once."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}
    print(json.dumps({"arm": arm, "gpus": gpus, **rounded}), flush=True)


if __name__ == "__main__":
    main()
