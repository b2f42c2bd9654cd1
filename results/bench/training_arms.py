"""One arm of ``training.py``, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hpcmaf.errors import StopRequested
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.job import run_finetune
from hpcmaf.training.launch import Workers
from hpcmaf.training.stop import StopFlag
from results.bench.training_workload import BATCH

# What may follow the name of an arm of ours.
KINDS: dict[str, dict[str, Any]] = {
    "fp8": {"quantize": "fp8"},
    "even": {"even_batches": True},
    "unpacked": {"packing": False},
    "4bit": {"quantize": "4bit"},
    "full": {"tuning": "full", "zero_stage": 3, "epochs": 1},
    # What is stepped on the CPU wants more of it than one thread.
    "offload": {"offload": "optimizer", "threads": 8},
    "params": {"offload": "params", "threads": 8},
    "dpo": {"objective": "dpo", "batch_size": BATCH, "micro_batch_size": 4, "learning_rate": 5e-5},
    "one": {"gpus": 1},
}
# Steps of a full finetuning whose checkpoint is not needed.
ENOUGH = 6


def settings_of(arm: str) -> dict[str, Any]:
    """What an arm of ours has that is not the default."""
    return {key: value for kind in arm.split("-")[1:] for key, value in KINDS[kind].items()}


def job_of(folder: Path, gpus: int, output: Path, **settings: Any) -> FinetuneJob:
    """An agent's job on the texts of this run."""
    return FinetuneJob(
        base=str(folder / "model"),
        dataset=str(folder / ("pairs.jsonl" if settings.get("objective") == "dpo" else "data.jsonl")),
        output=str(output),
        device="cuda" if gpus else "cpu",
        processes=max(1, gpus),
        loss_spike=0,
        # One process has nothing to shard, so the lowest stage that fits; several use TRL's stage.
        **{
            "batch_size": BATCH * max(1, gpus),
            "learning_rate": 1e-5,
            "micro_batch_size": 8,
            "gradient_checkpointing": "auto",
            "zero_stage": 2 if gpus > 1 else "auto",
            "epochs": 2,
        }
        | settings,
    )


def ours(folder: Path, gpus: int, **settings: Any) -> dict[str, Any]:
    """One job, with what it says of itself."""
    name = f"ours-{time.time_ns()}"
    job = job_of(folder, gpus, folder / name / "out", **settings)
    began, stop, report = time.time(), StopFlag(), None

    def progress(line: dict[str, Any]) -> None:
        if job.tuning == "full" and line["step"] >= ENOUGH:
            stop.request()

    try:
        report = run_finetune(job, folder / name, progress, stop=stop)
    except StopRequested:
        pass  # requested above
    wall = time.time() - began
    result = {"wall_s": wall} | logged(folder / name, job)
    if report is not None:
        result |= {
            "startup_s": report.startup_seconds,
            # Its folder is renamed when all that is in it is on disk.
            "saved_s": Path(job.output).stat().st_ctime - began,
            "leaving_s": began + wall - Path(job.output).stat().st_ctime,
            "training_tokens": report.training_tokens,
        }
    return result


def logged(folder: Path, job: FinetuneJob) -> dict[str, Any]:
    """Metrics from a job's progress and log."""
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    log = folder / "finetune.log"
    result: dict[str, Any] = {
        "flop_per_token": lines[-1]["tflops"] * 1e12 * job.processes / lines[-1]["tokens_per_s"],
        "first_steps_s": lines[min(1, len(lines) - 1)]["elapsed_s"],
        "training_s": lines[-1]["elapsed_s"],
        "losses": [lines[0]["loss"], lines[-1]["loss"]],
        "steps": len(lines),
        "memory_gib": lines[-1].get("memory_gib"),
        **{name: lines[-1][name] for name in ("reward_margin", "reward_accuracy") if name in lines[-1]},
        "log": [
            line
            for line in (log.read_text().splitlines() if log.exists() else [])
            if line.startswith(("training ", "packing", "zero_stage", "gradient_checkpointing"))
        ],
    }
    if len(lines) > 2:
        # Tokens so far are speed x time, as that is how the speed came about.
        begin, end = ((line["tokens_per_s"] * line["elapsed_s"], line["elapsed_s"]) for line in (lines[1], lines[-1]))
        result["tokens_per_s"] = (end[0] - begin[0]) / (end[1] - begin[1])
        result["whole_steps_tokens_per_s"] = whole_steps(lines)
    return result


def whole_steps(lines: list[dict[str, Any]]) -> float:
    """Speed of the steps from the third on that are no remainder of an epoch.

    A step of one text costs its kernels' starts and little else; there are as
    many of them on several GPUs as on one, among fewer others.
    """
    ends = [(line["tokens_per_s"] * line["elapsed_s"], line["elapsed_s"]) for line in lines]
    steps = [(end[0] - begin[0], end[1] - begin[1]) for begin, end in zip(ends[1:], ends[2:], strict=False)]
    most = max(tokens for tokens, _ in steps)
    whole = [step for step in steps if step[0] > most / 2]
    return sum(tokens for tokens, _ in whole) / sum(seconds for _, seconds in whole)


def agents(folder: Path, gpus: int, count: int, *, together: bool, **settings: Any) -> dict[str, Any]:
    """As many agents, each from its data to its saved adapter."""
    name = f"agents-{time.time_ns()}"
    jobs = [
        job_of(folder, gpus, folder / name / f"{agent}" / "out", **settings).replace(agent=f"critic-{agent}")
        for agent in range(count)
    ]
    began, each = time.time(), []
    with Workers() as workers:
        for job in jobs:
            report = run_finetune(job, Path(job.output).parent, workers=workers if together else None)
            each.append([round(report.startup_seconds, 2), round(report.wall_seconds, 2)])
    tokens = report.training_tokens * count
    return {"wall_s": time.time() - began, "agents": count, "startup_and_wall_s": each, "training_tokens": tokens}


def trl(folder: Path, arm: str, gpus: int, limit: float) -> dict[str, Any]:
    """An arm of TRL's: without checkpointing, and with it if that does not fit."""
    end = time.time() + limit
    for mode in ("plain", "checkpointed"):
        command = [sys.executable, "-m", "results.bench.training_trl", arm, str(folder), mode]
        environment = dict(os.environ)
        if gpus > 1:
            command[1:1] = ["-m", "torch.distributed.run", f"--nproc-per-node={gpus}"]
        else:
            environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
            environment["MASTER_PORT"] = "29533"
        log = folder / f"{arm}.log"
        with log.open("w") as sink:
            code = subprocess.run(command, stdout=sink, stderr=sink, env=environment).returncode
        if code == 0:
            return json.loads((folder / f"{arm}.json").read_text())
        output = log.read_text()
        if "out of memory" not in output or time.time() > end:
            break
    return {"failed": f"exit code {code}", "log": output[-1500:]}


def one(arm: str, folder: Path, gpus: int, count: int, limit: float) -> dict[str, Any]:
    """One arm, in this process."""
    if arm.startswith("trl"):
        return trl(folder, arm, gpus, limit)
    settings = {"gpus": gpus} | settings_of(arm)
    if arm.startswith(("apart", "together")):
        return agents(folder, count=count, together=arm.startswith("together"), **settings)
    return ours(folder, **settings)
