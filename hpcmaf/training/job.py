"""Run one finetuning job: start torchrun, wait, publish.

This side imports nothing heavy; the work is in :mod:`hpcmaf.training.worker`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpcmaf.errors import TrainingError
from hpcmaf.publish import atomic_path, write_json
from hpcmaf.training.failure import NAME as FAILURE
from hpcmaf.training.spec import FinetuneJob, FinetuneReport, LoraSettings

__all__ = ["FinetuneJob", "FinetuneReport", "LoraSettings", "run_finetune"]

# Between looks at the processes and their progress.
POLL_S = 0.2
# Torchrun's own time to stop its processes before it is killed.
GRACE_S = 10.0


def run_finetune(
    job: FinetuneJob, logs: Path, progress: Callable[[dict[str, Any]], None] | None = None
) -> FinetuneReport:
    """Finetune a model and publish its folder.

    The output is a PEFT adapter (LoRA) or a whole checkpoint with tokenizer
    (full), as safetensors, with this report as ``training.json``. It appears
    whole or not at all.

    Parameters
    ----------
    job
        What to do.
    logs
        Folder for ``finetune.log`` (all processes' output) and
        ``progress.jsonl`` (one line per optimiser step).
    progress
        Called with each line of ``progress.jsonl`` as it appears: step, steps,
        loss, tokens_per_s, eta_s.

    Returns
    -------
    FinetuneReport
        Counts, losses, times, memory.

    Raises
    ------
    TrainingError
        The processes failed; the message has their last word and the log.
    """
    started = time.monotonic()
    output = Path(job.output)
    logs = Path(logs)
    logs.mkdir(parents=True, exist_ok=True)
    log, steps = logs / "finetune.log", logs / "progress.jsonl"
    steps.write_bytes(b"")
    # Beside the logs: what a kill leaves of it is found there, not in /tmp.
    with tempfile.TemporaryDirectory(prefix="work-", dir=logs) as scratch, atomic_path(output) as temporary:
        work = Path(scratch)
        temporary.mkdir()
        job.write(work / "job.json")
        command = [sys.executable, "-m", "hpcmaf.training.torchrun", str(os.getpid())]
        command += [str(work), str(temporary.resolve()), str(steps.resolve()), str(time.time())]
        with log.open("ab") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=_environment(job),
                start_new_session=True,
            )
        try:
            code = _wait(process, steps, progress)
        finally:
            _stop(process)
        if code != 0:
            raise TrainingError(f"finetuning {output.name} failed: {_last_word(work, log, code)}; see {log}")
        report = _report(work, job, wall=time.monotonic() - started)
        if report.steps == 0 and job.start is not None:
            # Nothing was learnt: the agent goes on with the very same model.
            shutil.copytree(job.start, temporary, dirs_exist_ok=True)
        write_json(temporary / "training.json", report.to_json())
    return report


def _environment(job: FinetuneJob) -> dict[str, str]:
    environment = dict(os.environ)
    # Set for the whole tree before any of them imports torch or deepspeed.
    environment["OMP_NUM_THREADS"] = str(job.threads)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if job.device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # Left over from a job this one was started in, they would misplace it.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return environment


def _wait(process: subprocess.Popen[bytes], steps: Path, progress: Callable[[dict[str, Any]], None] | None) -> int:
    with steps.open("rb") as file:
        torn = b""
        while True:
            code = process.poll()
            *whole, torn = (torn + file.read()).split(b"\n")
            for line in whole:
                if progress is not None:
                    progress(json.loads(line))
            if code is not None:
                return code
            time.sleep(POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End torchrun and its workers, whichever way this process is left."""
    if process.poll() == 0:
        return
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        # Whatever is left of its session; without a survivor there is none.
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _last_word(work: Path, log: Path, code: int) -> str:
    failure = work / FAILURE
    if failure.exists():
        return failure.read_text(encoding="utf-8", errors="replace").strip()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{said} ({how})"


def _report(work: Path, job: FinetuneJob, wall: float) -> FinetuneReport:
    counts = json.loads((work / "report.json").read_text())
    counts["losses"] = tuple(counts["losses"])
    gpus = counts.pop("gpus")
    return FinetuneReport(**counts, wall_seconds=wall, gpu_seconds=wall * gpus)
