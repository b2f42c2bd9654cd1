"""One finetuning job in one of its processes: load, train, save.

The loop is plain DeepSpeed rather than a Trainer's, because the loss must be
weighted by target tokens over micro-batches *and* processes, and because a
Trainer's imports take longer than a small job trains.
"""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
import torch.distributed as dist

from hpcmaf.chat import ChatFormat
from hpcmaf.errors import TrainingError
from hpcmaf.seeding import derive_seed
from hpcmaf.training import engine as ds
from hpcmaf.training.data import TokenData, TokenSample, global_batches, load_tokens
from hpcmaf.training.held import Held
from hpcmaf.training.keeper import Keeper
from hpcmaf.training.loop import train
from hpcmaf.training.memory import flop_per_token, size_of
from hpcmaf.training.model import compute_dtype, context_length, load_config, load_model, loading_device, trainable
from hpcmaf.training.objective import Imitation, Objective
from hpcmaf.training.packable import Packing
from hpcmaf.training.place import Place
from hpcmaf.training.preparing import prepare
from hpcmaf.training.reserve import reserving
from hpcmaf.training.saving import Landing, on_cpu, save_adapter, save_checkpoint
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.stopping import WorkStop
from hpcmaf.training.watching import Watch


def finetune(
    job: FinetuneJob,
    place: Place,
    output: Path,
    steps: Path,
    stop: WorkStop,
    started: float,
    token: str,
    held: Held,
    coming: FinetuneJob | None,
) -> dict[str, object]:
    """Train and save one model.

    Parameters
    ----------
    held
        What the job before has left, and takes what the next one can use.
    coming
        The job whose data is to be prepared meanwhile.

    Returns
    -------
    dict
        The fields of the report; of a job that was stopped only ``steps``
        and those done, ``stopped_at``.
    """
    cuda = place.device.type == "cuda"
    marks = {"launch": time.time()}
    config = load_config(job)
    chat, data = held.data(job, _load)
    seed = derive_seed(job.seed, job.iteration, job.agent, "finetune")
    batches = global_batches(
        data.samples, batch_size=job.batch_size, epochs=job.epochs, seed=seed, even=job.even_batches
    )

    dtype = compute_dtype(job, config, cuda)
    losses: list[float] = []
    earlier, landing = 0.0, None
    marks["data"] = first_step = time.time()
    if batches:
        early, held.early = held.early, None
        weights = early.take() if early is not None else None
        ds.connect(cuda)
        device = early.device if weights is not None else loading_device(job, place)
        base = held.base(job, dtype, device, lambda: load_model(job, config, dtype, device, weights))
        marks["weights"] = time.time()
        # Draws the fresh adapter, the same in every process.
        torch.manual_seed(derive_seed(seed, "adapter"))
        model = trainable(base, job)
        if held.reused and place.first:
            print(f"from the job before: {' and '.join(held.reused)}", flush=True)
        _check_vocabulary(model, data.samples, job)
        marks["adapter"] = time.time()
        # TRL's loss is of padded pairs.
        wanted = job.packing and job.objective == "sft"
        packing = Packing(model, max(len(sample.input_ids) for sample in data.samples), wanted=wanted)
        job, memory = prepare(model, job, config, dtype, place, packed=packing.on, logits=_logits(data))
        marks["kernels"] = time.time()
        engine = ds.start(model, job, dtype, len(batches), cuda)
        marks["engine"] = time.time()
        if early is not None:
            early.ready()
        # Not before: an optimizer's state of all weights would find the memory taken.
        with reserving(memory, place.device), ds.meeting(engine):
            packing.check(engine, data.samples, place.device)
        objective = _objective(engine, model, job, place, data, packed=packing.on)
        _seed_dropout(derive_seed(seed, "dropout", place.rank))
        keeper = Keeper(engine, job, place, dtype, started=started, token=token)
        before = keeper.resume()
        earlier = keeper.earlier_seconds
        marks["check"] = first_step = time.time()
        useful = flop_per_token(size_of(engine.module.parameters(), dtype.itemsize), job)
        if coming is not None:
            held.prepare(coming, _load)
        if place.first:
            landing = Landing.of(engine.module, job)
        # Of what was made until here nothing is garbage, and looking for it takes as long as making some of it.
        gc.enable()
        with closing(Watch(job, place, steps, len(batches), useful)) as watch:
            losses = train(engine, objective, batches, before, place, watch, keeper, stop, loss_spike=job.loss_spike)
        if len(losses) < len(batches):
            return {"stopped_at": len(losses), "steps": len(batches)}
        weights = ds.trained_weights(engine, adapter=job.tuning == "lora")
    elif not job.start:
        # In the checkpoint's own type: nothing is computed, so nothing may change.
        torch.manual_seed(derive_seed(seed, "adapter"))
        model = trainable(load_model(job, config, "auto"), job)
        weights = model.state_dict()
    # Without data and with a previous model, the launcher copies that.
    if place.first and (batches or not job.start):
        weights = on_cpu(weights, landing)
        if job.tuning == "lora":
            save_adapter(model, weights, job, output)
        else:
            save_checkpoint(model, weights, chat.tokenizer, job, output)
    if batches and coming is not None:
        packing.release()
        engine.destroy()
        del engine, objective, keeper
        held.keep(job, dtype, device, model)
    return {
        **_counts(data, job.epochs),
        "steps": len(batches),
        "final_loss": losses[-1] if losses else None,
        "losses": losses,
        "startup_seconds": first_step - started,
        "startup": {
            name: round(end - begin, 3) for (name, end), begin in zip(marks.items(), [started, *marks.values()])
        },
        "peak_memory_bytes": _peak_memory(place),
        "earlier_seconds": earlier,
        "gpus": place.processes if cuda else 0,
    }


def _load(job: FinetuneJob) -> tuple[ChatFormat, TokenData]:
    """A job's data in tokens, and the format they are in."""
    chat = ChatFormat.from_pretrained(
        job.base, revision=job.revision, trust_remote_code=job.trust_remote_code, date=job.date
    )
    longest = min(job.max_length, context_length(load_config(job)) or job.max_length)
    if job.objective == "dpo":
        from hpcmaf.training.pairs import load_pairs

        return chat, load_pairs(Path(job.dataset), chat, max_length=longest)
    return chat, load_tokens(Path(job.dataset), chat, max_length=longest, loss_on=job.loss_on)


def _objective(
    run: torch.nn.Module, model: torch.nn.Module, job: FinetuneJob, place: Place, data: TokenData, *, packed: bool
) -> Objective:
    if job.objective == "dpo":
        from hpcmaf.training.preference import Preference

        return Preference(run, model, job, place, data.samples)
    return Imitation(run, job, place, packed=packed)


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
