"""One process of a finetuning job, or of a series of them.

Started by :mod:`hpcmaf.training.torchrun`, or by torchrun itself::

    torchrun --nproc-per-node P -m hpcmaf.training.worker WORK OUTPUT STEPS
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from hpcmaf.imports.light import lightly
from hpcmaf.imports.tuners import import_peft
from hpcmaf.publish import write_json
from hpcmaf.training import kernels
from hpcmaf.training.early import EarlyWeights
from hpcmaf.training.extras import check_packages
from hpcmaf.training.failure import recorded
from hpcmaf.training.finetune import finetune
from hpcmaf.training.held import Held
from hpcmaf.training.model import load_config
from hpcmaf.training.orders import Order
from hpcmaf.training.place import Place
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.stopping import WorkStop, heed_signals
from hpcmaf.training.unneeded import skip_inductor

_PR_SET_PDEATHSIG = 1


def preload(job: FinetuneJob) -> None:
    """Import what every process of ``job`` needs; loads no weights."""
    on_gpu = job.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        kernels.begin_triton()
    with lightly():
        from transformers import AutoModelForCausalLM, conversion_mapping

        config = load_config(job)
        # The lookup imports the architecture's module.
        if type(config) in AutoModelForCausalLM._model_mapping:
            AutoModelForCausalLM._model_mapping[type(config)]
        if job.tuning == "lora":
            import_peft()
    skip_inductor()
    check_packages(objective=job.objective, quantize=job.quantize)
    if on_gpu:
        kernels.preload()
    # Asked for as a model takes weights, and built once, of a thousand expressions; they may still be on their way.
    conversion_mapping.get_checkpoint_conversion_mapping(config.model_type)
    if job.objective == "dpo":
        import trl.trainer.dpo_trainer  # noqa: F401


def die_with_parent() -> None:
    """Be killed when the process that started this one is, however that goes (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run(
    work: str, output: str, steps: str, started: float, node: int | None = None, early: EarlyWeights | None = None
) -> None:
    """Do this process's part of a job.

    Parameters
    ----------
    work
        Folder with ``job.json``; takes ``report.json``, or ``failure.json``.
    output
        Existing folder that takes the model.
    steps
        JSONL that takes a line per optimiser step.
    started
        Unix time at which the job began, for the report.
    node
        Number of this node in a job of several.
    early
        The base's weights, being read already.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    die_with_parent()
    try:
        _do(work, output, steps, started, node, Held(early), None)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def serve(inbox: str, early: EarlyWeights | None = None) -> None:
    """Do this process's part of a series of jobs, until there are no more or one is stopped."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    die_with_parent()
    held, number, stopped = Held(early), 1, False
    try:
        while not stopped and (order := Order.wait(Path(inbox), number, _orphaned)) is not None:
            with open(order.log, "ab") as log:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                    os.dup2(log.fileno(), stream.fileno())
            coming = FinetuneJob.read(Path(order.coming)) if order.coming else None
            stopped = _do(order.work, order.output, order.steps, order.started, None, held, coming)
            number += 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _orphaned() -> bool:
    return os.getppid() == 1


def _do(
    work: str, output: str, steps: str, started: float, node: int | None, held: Held, coming: FinetuneJob | None
) -> bool:
    """One job; returns whether it was stopped before its end."""
    stop = WorkStop(Path(work))
    heed_signals(stop.request)
    with recorded(Path(work), stopped=lambda: stop.requested):
        job = FinetuneJob.read(Path(work) / "job.json")
        if node is not None:
            # The rendezvous numbers nodes by their addresses, but process 0
            # has to be on the node that publishes what it writes.
            os.environ["RANK"] = str(node * job.processes + int(os.environ["LOCAL_RANK"]))
        place = Place.of(job)
        torch.set_num_threads(job.threads)
        report = finetune(job, place, Path(output), Path(steps), stop, started, Path(work).name, held, coming)
        if place.first:
            # Its appearance ends the job, for whoever waits for it.
            write_json(Path(work) / "report.json", report)
    return "stopped_at" in report


if __name__ == "__main__":
    preload(FinetuneJob.read(Path(sys.argv[1]) / "job.json"))
    run(*sys.argv[1:4], started=time.time())
