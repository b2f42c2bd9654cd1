"""One process of a finetuning job: load, train, save.

Started by :mod:`hpcmaf.training.torchrun`, or by torchrun itself::

    torchrun --nproc-per-node P -m hpcmaf.training.worker WORK OUTPUT STEPS

The loop is plain DeepSpeed rather than a Trainer's, because the loss must be
weighted by target tokens over micro-batches *and* processes, and because a
Trainer's imports take longer than a small job trains.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
import torch.distributed as dist

from hpcmaf.chat import ChatFormat
from hpcmaf.errors import PlatformError, TrainingError
from hpcmaf.seeding import derive_seed
from hpcmaf.training import engine as ds
from hpcmaf.training.data import (
    IGNORED,
    MicroBatch,
    TokenData,
    TokenSample,
    collate,
    global_batches,
    load_tokens,
    share,
)
from hpcmaf.training.failure import recorded
from hpcmaf.training.model import compute_dtype, context_length, load_config, load_model
from hpcmaf.training.saving import check_finite, save_adapter, save_checkpoint
from hpcmaf.training.spec import FinetuneJob

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands among the job's."""

    rank: int
    processes: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0


def preload(job: FinetuneJob) -> None:
    """Import what every process of ``job`` needs; loads no weights and touches no GPU."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    ds.skip_inductor()
    config = load_config(job)
    # The lookup imports the architecture's module.
    if type(config) in AutoModelForCausalLM._model_mapping:
        AutoModelForCausalLM._model_mapping[type(config)]
    if job.tuning == "lora":
        import peft  # noqa: F401


def run(work: str, output: str, steps: str, started: float) -> None:
    """Do this process's part of a job.

    Parameters
    ----------
    work
        Folder with ``job.json``; takes ``report.json``, or ``failure.txt``.
    output
        Existing folder that takes the model.
    steps
        JSONL that takes a line per optimiser step.
    started
        Unix time at which the job began, for the report.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with recorded(Path(work)):
        job = FinetuneJob.read(Path(work) / "job.json")
        place = _place(job)
        torch.set_num_threads(job.threads)
        try:
            with Path(steps).open("a", encoding="ascii") as progress:
                report = finetune(job, place, Path(output), progress, started)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        if place.first:
            (Path(work) / "report.json").write_text(json.dumps(report))


def finetune(job: FinetuneJob, place: Place, output: Path, progress: IO[str], started: float) -> dict[str, object]:
    """Train and save one model; returns the fields of the report."""
    cuda = place.device.type == "cuda"
    config = load_config(job)
    chat = ChatFormat.from_pretrained(job.base, revision=job.revision, trust_remote_code=job.trust_remote_code)
    longest = min(job.max_length, context_length(config) or job.max_length)
    data = load_tokens(Path(job.dataset), chat, max_length=longest, loss_on=job.loss_on)
    seed = derive_seed(job.seed, job.iteration, job.agent, "finetune")
    batches = global_batches(data.samples, batch_size=job.batch_size, epochs=job.epochs, seed=seed)

    # Seeds the fresh adapter, the same in every process.
    torch.manual_seed(derive_seed(seed, "adapter"))
    dtype = compute_dtype(job, config, cuda)
    losses: list[float] = []
    first_step = time.time()
    if batches:
        model = load_model(job, config, dtype)
        _check_vocabulary(model, data.samples, job)
        ds.connect(cuda)
        engine = ds.start(model, job, dtype, len(batches), cuda)
        _seed_dropout(derive_seed(seed, "dropout", place.rank))
        first_step = time.time()
        losses = train(engine, batches, job, place, progress)
        weights = ds.trained_weights(engine, adapter=job.tuning == "lora")
    elif not job.start:
        # In the checkpoint's own type: nothing is computed, so nothing may change.
        model = load_model(job, config, "auto")
        weights = model.state_dict()
    # Without data and with a previous model, the launcher copies that.
    if place.first and (batches or not job.start):
        check_finite(weights)
        if job.tuning == "lora":
            save_adapter(model, weights, job, output)
        else:
            save_checkpoint(model, weights, chat.tokenizer, job, output)
    return {
        **_counts(data, job.epochs),
        "steps": len(batches),
        "final_loss": losses[-1] if losses else None,
        "losses": losses,
        "startup_seconds": first_step - started,
        "peak_memory_bytes": _peak_memory(place),
        "gpus": place.processes if cuda else 0,
    }


def train(
    engine: DeepSpeedEngine, batches: Sequence[Sequence[TokenSample]], job: FinetuneJob, place: Place, progress: IO[str]
) -> list[float]:
    """All optimiser steps.

    The loss of a step is the sum of the negative log-likelihoods of all
    target tokens of the global batch over their number, however the batch is
    cut into micro-batches and processes.

    Returns
    -------
    list of float
        Each step's loss.

    Raises
    ------
    TrainingError
        A loss is not finite; raised before that step changes any weight.
    """
    began, tokens, losses = time.monotonic(), 0, []
    for step, batch in enumerate(batches, 1):
        target_tokens = sum(sample.target_tokens for sample in batch)
        micros = share(batch, rank=place.rank, processes=place.processes, micro_batch_size=job.micro_batch_size)
        total = torch.zeros((), dtype=torch.float64, device=place.device)
        for position, micro in enumerate(micros, 1):
            engine.set_gradient_accumulation_boundary(position == len(micros))
            nll = _negative_log_likelihood(engine, collate(micro, pad_id=0, filler=batch[0]), place.device)
            # DeepSpeed averages gradients over processes; the loss is a sum over them.
            engine.backward(nll * (place.processes / target_tokens), scale_wrt_gas=False)
            total += nll.detach()
        if place.processes > 1:
            dist.all_reduce(total)
        losses.append(total.item() / target_tokens)
        if not torch.isfinite(total):
            names = ", ".join(sample.id for sample in batch)
            raise TrainingError(
                f"diverged: the loss of step {step} of {len(batches)} is {losses[-1]} (samples {names}); "
                "lower the learning rate"
            )
        rate = engine.get_lr()[0]
        engine.step()
        tokens += sum(len(sample.input_ids) for sample in batch)
        if place.first:
            elapsed = time.monotonic() - began
            line = {
                "step": step,
                "steps": len(batches),
                "loss": losses[-1],
                "learning_rate": rate,
                "tokens_per_s": round(tokens / elapsed, 1),
                "eta_s": round(elapsed / step * (len(batches) - step), 1),
            }
            progress.write(json.dumps(line) + "\n")
            progress.flush()
    return losses


def _negative_log_likelihood(engine: DeepSpeedEngine, batch: MicroBatch, device: torch.device) -> torch.Tensor:
    """Sum over the target tokens of a micro-batch.

    Logits are made where a target follows only: with a vocabulary of 128k
    those of a whole text take more memory than the model's activations.
    """
    arguments = {"input_ids": batch.input_ids.to(device), "attention_mask": batch.attention_mask.to(device)}
    keep = batch.keep.to(device)
    if _keeps_logits(engine.module):
        logits = engine(**arguments, use_cache=False, logits_to_keep=keep).logits
    else:
        logits = engine(**arguments, use_cache=False).logits[:, keep]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.labels.to(device).flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _keeps_logits(model: torch.nn.Module) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def _check_vocabulary(model: torch.nn.Module, samples: Sequence[TokenSample], job: FinetuneJob) -> None:
    rows = model.get_input_embeddings().num_embeddings
    largest = max(max(sample.input_ids) for sample in samples)
    if largest >= rows:
        raise TrainingError(f"{job.base}: its tokenizer makes token {largest}, but the model has {rows} embeddings")


def _seed_dropout(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def _counts(data: TokenData, epochs: int) -> dict[str, int]:
    return {
        "samples": len(data.samples),
        "dropped_too_long": data.dropped_too_long,
        "training_tokens": epochs * sum(len(sample.input_ids) for sample in data.samples),
        "target_tokens": epochs * sum(sample.target_tokens for sample in data.samples),
    }


def _place(job: FinetuneJob) -> Place:
    cuda = job.device != "cpu" and torch.cuda.is_available()
    if job.device == "cuda" and not cuda:
        raise PlatformError("finetuning: device is cuda, but torch finds no GPU; use device: cpu or auto")
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        if local >= torch.cuda.device_count():
            raise PlatformError(
                f"finetuning: {job.processes} processes for {torch.cuda.device_count()} GPUs; lower processes"
            )
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)


def _peak_memory(place: Place) -> int:
    if place.device.type == "cuda":
        own = torch.cuda.max_memory_allocated()
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if place.processes == 1 or not dist.is_initialized():
        return own
    largest = torch.tensor(own, dtype=torch.int64, device=place.device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


if __name__ == "__main__":
    preload(FinetuneJob.read(Path(sys.argv[1]) / "job.json"))
    run(*sys.argv[1:4], started=time.time())
