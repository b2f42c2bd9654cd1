"""One finetuning job in one of its processes: load, train, save.

The loop is plain DeepSpeed rather than a Trainer's, because the loss must be
weighted by target tokens over micro-batches *and* processes, and resume
exactly.
"""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from hpcmaf.engines.chat import ChatFormat
from hpcmaf.errors import TrainingError
from hpcmaf.seeding import derive_seed
from hpcmaf.training import engine as ds
from hpcmaf.training.data import TokenData, TokenSample, global_batches, load_tokens
from hpcmaf.training.dpo import Dpo
from hpcmaf.training.extras import check_packages
from hpcmaf.training.keeper import Keeper
from hpcmaf.training.launch import Entry
from hpcmaf.training.loop import Objective, train
from hpcmaf.training.memory import flop_per_token, size_of
from hpcmaf.training.model import compute_dtype, context_length, load_config, load_model, loading_device, trainable
from hpcmaf.training.packing import Packing
from hpcmaf.training.pairs import load_pairs
from hpcmaf.training.preparing import prepare
from hpcmaf.training.process import Process
from hpcmaf.training.saving import on_cpu, save_adapter, save_checkpoint
from hpcmaf.training.sft import Sft
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.stopping import WorkStop
from hpcmaf.training.watching import Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Base:
    """A frozen base that a job leaves to the next one, and what it is: file, type, place and the like."""

    kind: tuple[object, ...]
    model: PreTrainedModel


def finetune(
    job: FinetuneJob, process: Process, entry: Entry, stop: WorkStop, base: Base | None = None
) -> tuple[dict[str, object], Base | None]:
    """Train and save one model.

    Parameters
    ----------
    base
        What the job before has left.

    Returns
    -------
    tuple
        The fields of the report, of a job that was stopped only ``steps`` and
        those done, ``stopped_at``; and what the next job may use.
    """
    started, output = entry.started, Path(entry.output)
    check_packages(quantize=job.quantize)
    marks = {"launch": time.time()}
    config = load_config(job)
    chat, data = _load(job)
    seed = derive_seed(job.seed, job.iteration, job.agent, "finetune")
    batches = global_batches(
        data.samples, batch_size=job.batch_size, epochs=job.epochs, seed=seed, even=job.even_batches
    )
    dtype = compute_dtype(job, config, process.cuda)
    losses: list[float] = []
    earlier, left = 0.0, None
    marks["data"] = first_step = time.time()
    if batches:
        with _computing(process):
            ds.connect(process.cuda)
            device = loading_device(job, process)
            kind = _kind(job, dtype, device)
            if base is not None and base.kind == kind:
                frozen = base.model
                if process.first:
                    print("from the job before: base", flush=True)
            else:
                base = None  # gives its memory back
                frozen = load_model(job, config, dtype, device)
            marks["weights"] = time.time()
            # Draws the fresh adapter, the same in every process.
            torch.manual_seed(derive_seed(seed, "adapter"))
            model = trainable(frozen, job)
            _check_vocabulary(model, data.samples, job)
            marks["adapter"] = time.time()
            packing = Packing(model, max(len(sample.input_ids) for sample in data.samples), wanted=job.packing)
            job = prepare(model, job, config, dtype, process, packed=packing.on, logits=_logits(data))
            marks["kernels"] = time.time()
            keeper = Keeper(job, process, dtype, started=started, token=Path(entry.work).name)
            engine = ds.start(model, job, dtype, len(batches), process.cuda, universal=keeper.converts)
            marks["engine"] = time.time()
            packing.check(engine, data.samples, process.device)
            objective = _objective(engine, job, process, data, packed=packing.on)
            _seed_dropout(derive_seed(seed, "dropout", process.rank))
            before, earlier = keeper.resume(engine), keeper.earlier_seconds
            marks["check"] = first_step = time.time()
        useful = flop_per_token(size_of(engine.module.parameters(), dtype.itemsize), job)
        with closing(Watch(job, process, Path(entry.steps), len(batches), useful)) as watch:
            losses = train(engine, objective, batches, before, process, watch, keeper, stop, loss_spike=job.loss_spike)
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
        if job.tuning == "lora":
            save_adapter(model, on_cpu(weights), job, output)
        else:
            save_checkpoint(model, on_cpu(weights), chat.tokenizer, job, output)
    report = {
        **_counts(data, job.epochs),
        "steps": len(batches),
        "final_loss": losses[-1] if losses else None,
        "losses": losses,
        "startup_seconds": first_step - started,
        "startup": {
            name: round(end - begin, 3) for (name, end), begin in zip(marks.items(), [started, *marks.values()])
        },
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
            left = Base(kind, model.unload())
        del model
        gc.collect()
        if process.cuda:
            torch.cuda.empty_cache()
            # The next job reports its own peak.
            torch.cuda.reset_peak_memory_stats()
    return report, left


@contextmanager
def _computing(process: Process) -> Iterator[None]:
    """How Python and PyTorch are set up for a job, all in one place.

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


def _load(job: FinetuneJob) -> tuple[ChatFormat, TokenData]:
    """A job's data in tokens, and the format they are in."""
    chat = ChatFormat.from_pretrained(
        job.base, revision=job.revision, trust_remote_code=job.trust_remote_code, date=job.date
    )
    longest = min(job.max_length, context_length(load_config(job)) or job.max_length)
    if job.objective == "dpo":
        return chat, load_pairs(Path(job.dataset), chat, max_length=longest)
    return chat, load_tokens(Path(job.dataset), chat, max_length=longest, loss_on=job.loss_on)


def _objective(
    run: torch.nn.Module, job: FinetuneJob, process: Process, data: TokenData, *, packed: bool
) -> Objective:
    if job.objective == "dpo":
        return Dpo(run, job, process, data.samples, packed=packed)
    return Sft(run, job, process, packed=packed)


def _kind(job: FinetuneJob, dtype: torch.dtype, device: str) -> tuple[object, ...]:
    """What two jobs have to have in common to share a base."""
    own = (job.tuning, job.base, job.revision, job.trust_remote_code, job.quantize, job.gradient_checkpointing)
    return (*own, job.zero_stage == 3 or job.offload == "params", dtype, device)


def _logits(data: TokenData) -> float:
    """Share of tokens that get logits; a fourth more than on average, as some passes have more."""
    targets = sum(sample.target_tokens for sample in data.samples)
    return min(1.0, 1.25 * targets / sum(len(sample.input_ids) for sample in data.samples))


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


def _peak_memory(process: Process) -> int:
    if process.cuda:
        own = torch.cuda.max_memory_allocated()
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if process.world_size == 1 or not dist.is_initialized():
        return own
    largest = torch.tensor(own, dtype=torch.int64, device=process.device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)
