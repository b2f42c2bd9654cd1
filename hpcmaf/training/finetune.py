"""One finetuning job in one of its processes: load, train, save.

The loop is plain DeepSpeed rather than a Trainer's, because the loss must be weighted by target tokens over
micro-batches *and* processes, and resume exactly.
"""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hpcmaf.errors import TrainingError
from hpcmaf.models.chat import ChatFormat
from hpcmaf.seeding import derive_seed
from hpcmaf.training import engine as ds
from hpcmaf.training.checkpointer import Checkpointer
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import TokenData, global_batches, load_tokens
from hpcmaf.training.dpo import Dpo
from hpcmaf.training.grpo import Grpo
from hpcmaf.training.kto import Kto
from hpcmaf.training.launch import MODEL
from hpcmaf.training.loop import train
from hpcmaf.training.memory import flop_per_token, size_of
from hpcmaf.training.metrics import Metrics
from hpcmaf.training.model import compute_dtype, load_config, load_model, loading_device, trainable
from hpcmaf.training.objective import Objective
from hpcmaf.training.packing import Packing
from hpcmaf.training.process import Process
from hpcmaf.training.saving import save_adapter, save_checkpoint
from hpcmaf.training.setup import prepare
from hpcmaf.training.sft import Sft
from hpcmaf.training.stop import StopFile

OBJECTIVES: dict[str, type[Objective]] = {"sft": Sft, "dpo": Dpo, "kto": Kto, "grpo": Grpo}


# A frozen base that a job leaves to the next one, behind what it is: file, type, device and the like.
Base = tuple[tuple[object, ...], PreTrainedModel]


def finetune(
    job: FinetuneJob, process: Process, work: Path, began: float, stop: StopFile, base: Base | None = None
) -> tuple[dict[str, object], Base | None]:
    """Train and save one model.

    Parameters
    ----------
    work
        Folder that takes the model.
    began
        Unix time at which this process began the job.
    base
        What the job before has left.

    Returns
    -------
    tuple
        The fields of the report, of a job that was stopped only ``steps`` and
        those done, ``stopped_at``; and what the next job may use.
    """
    config = load_config(job)
    chat = ChatFormat.from_pretrained(
        job.base, revision=job.revision, trust_remote_code=job.trust_remote_code, date=job.date,
        chat_template=job.chat_template, chat_template_kwargs=job.chat_template_kwargs,
    )
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = min(job.max_length, context or job.max_length)
    data = load_tokens(Path(job.dataset), chat, max_length=longest, loss_on=job.loss_on, objective=job.objective)
    seed = derive_seed(job.seed, job.iteration, job.agent, "finetune")
    batches = global_batches(
        data.samples, batch_size=job.batch_size, epochs=job.epochs, seed=seed, even=job.even_batches
    )
    losses: list[float] = []
    earlier, left = 0.0, None
    ready = time.time()
    if batches:
        with _computing(process):
            ds.connect(process.cuda)
            dtype, device = compute_dtype(job, config, process.cuda), loading_device(job, process)
            kind = _kind(job, dtype, device)
            if base is not None and base[0] == kind:
                frozen = base[1]
                if process.first:
                    print("from the job before: base", flush=True)
            else:
                base = None  # gives its memory back
                frozen = load_model(job, config, dtype, device)
            # Draws the fresh adapter, the same in every process.
            torch.manual_seed(derive_seed(seed, "adapter"))
            model = trainable(frozen, job)
            _check_vocabulary(model, data, job)
            packing = Packing(model, max(len(sample.input_ids) for sample in data.samples), wanted=job.packing)
            job = prepare(model, job, config, dtype, process, packed=packing.on, logits=_logits(data))
            checkpointer = Checkpointer(job, process, dtype, began)
            engine = ds.start(model, job, dtype, len(batches), process.cuda, universal=checkpointer.converts)
            packing.check(engine, data.samples, process)
            objective = OBJECTIVES[job.objective](engine, job, process, data.samples, packed=packing.on)
            dropout = derive_seed(seed, "dropout", process.rank)
            random.seed(dropout)
            torch.manual_seed(dropout)
            before, earlier = checkpointer.resume(engine), checkpointer.earlier_seconds
            ready = time.time()
        useful = flop_per_token(size_of(engine.module.parameters(), dtype.itemsize), job)
        with closing(Metrics(process, work.parent, len(batches), useful)) as metrics:
            losses = train(
                engine, objective, batches, before, process, metrics, checkpointer, stop, loss_spike=job.loss_spike
            )
        if len(losses) < len(batches):
            return {"stopped_at": len(losses), "steps": len(batches)}, None
        weights = ds.trained_weights(engine, adapter=job.tuning == "lora")
    elif not job.start:
        # In the checkpoint's own type: nothing is computed, so nothing may change.
        torch.manual_seed(derive_seed(seed, "adapter"))
        model = trainable(load_model(job, config, "auto"), job)
        weights = model.state_dict()
    # Without data and with a previous model, the launcher copies that.
    if process.first and (batches or not job.start):
        output = work / MODEL
        output.mkdir()
        if job.tuning == "lora":
            save_adapter(model, weights, job, output)
        else:
            save_checkpoint(model, weights, chat.tokenizer, job, output)
    report = {
        "samples": len(data.samples),
        "dropped_too_long": data.dropped_too_long,
        "training_tokens": job.epochs * sum(len(sample.input_ids) for sample in data.samples),
        "target_tokens": job.epochs * sum(sample.target_tokens for sample in data.samples),
        "steps": len(batches),
        "final_loss": losses[-1] if losses else None,
        "losses": losses,
        "ready": ready,
        "peak_memory_bytes": _peak_memory(process),
        "earlier_seconds": earlier,
        "gpus": process.world_size if process.cuda else 0,
    }
    if batches:
        packing.release()
        engine.destroy()
        del engine, objective
        # Under ZeRO-3 a base is in parts that belong to one engine.
        if job.tuning == "lora" and job.zero_stage != 3 and job.offload != "params":
            left = (kind, model.unload())
        del model
        gc.collect()
        if process.cuda:
            torch.cuda.empty_cache()
            # The next job reports its own peak.
            torch.cuda.reset_peak_memory_stats()
    return report, left


@contextmanager
def _computing(process: Process) -> Iterator[None]:
    """How Python and PyTorch are set up for a job.

    Garbage is not collected while model and engine are made, nothing of which
    is garbage, and what is there then is never looked at again. On GPUs
    attention's gradients are the one sum whose order varies; see
    :func:`hpcmaf.training.attention.in_fixed_order`, which asks for PyTorch's
    deterministic mode for as long as it takes. For all operations that mode
    costs 4 to 6% and makes nothing more equal.
    """
    if process.cuda:
        # Nothing here reads what it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _kind(job: FinetuneJob, dtype: torch.dtype, device: str) -> tuple[object, ...]:
    """What two jobs have to have in common to share a base."""
    own = (job.tuning, job.base, job.revision, job.trust_remote_code, job.quantize, job.gradient_checkpointing)
    return (*own, job.zero_stage == 3 or job.offload == "params", dtype, device)


def _logits(data: TokenData) -> float:
    """Share of tokens that get logits; a fourth more than on average, as some passes have more."""
    targets = sum(sample.target_tokens for sample in data.samples)
    return min(1.0, 1.25 * targets / sum(len(sample.input_ids) for sample in data.samples))


def _check_vocabulary(model: torch.nn.Module, data: TokenData, job: FinetuneJob) -> None:
    rows = model.get_input_embeddings().num_embeddings
    largest = max(max(sample.input_ids) for sample in data.samples)
    if largest >= rows:
        raise TrainingError(f"{job.base}: its tokenizer makes token {largest}, but the model has {rows} embeddings")


def _peak_memory(process: Process) -> int:
    if process.cuda:
        return int(process.largest(torch.cuda.max_memory_allocated()))
    return int(process.largest(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
