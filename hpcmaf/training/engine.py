"""A model under DeepSpeed, and its trained weights out of it again."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from hpcmaf.imports.swap import instead
from hpcmaf.training.schedule import rate_factor
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.warm import be_alone

# DeepSpeed's own size of communication buckets, in elements.
_BUCKET = 500_000_000
# Parameters that are stepped at once; its own, ten times as many, take 4 GB more than they save time.
_STEPPED = 100_000_000


def settings(job: FinetuneJob, dtype: torch.dtype, trainable: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a job.

    Parameters
    ----------
    trainable
        Number of trained parameters. Buckets are allocated whole, so an
        adapter does not need the default's 2 GB.
    """
    bucket = max(1, min(_BUCKET, trainable))
    # DeepSpeed's stage 0 steps bfloat16 weights without a float32 copy of
    # them and loses what is smaller than their rounding; stage 1 keeps one.
    stage = max(int(job.zero_stage), 1) if dtype == torch.bfloat16 else int(job.zero_stage)
    pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    offload = {"offload_optimizer": pinned} if job.offload != "none" else {}
    offload |= {"offload_param": pinned} if job.offload == "params" else {}
    return {
        "train_micro_batch_size_per_gpu": job.micro_batch_size,
        # The true number varies with the last batch of an epoch: the loop
        # marks the boundary itself and weights the loss by tokens.
        "gradient_accumulation_steps": 1,
        "gradient_clipping": job.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16, "check_grad_overflow": True},
        "zero_optimization": {
            "stage": stage,
            # Who reduces nothing needs no bucket, nor a hook for each gradient that fills one.
            "contiguous_gradients": not (job.alone and stage == 1 and job.offload == "none"),
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            # Under stage 3: gradients take float32's room for so many at a time.
            "sub_group_size": _STEPPED,
        }
        | offload,
        # torch's AdamW: DeepSpeed's own ones compile for over a minute first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
        # Its clock would wait for the GPU at both ends of every forward pass,
        # which could otherwise be prepared while the last one is computed.
        "timers": {"throughput": {"enabled": False}},
    }


def connect(cuda: bool) -> None:
    """Join the other processes, where there are any, by NCCL on GPUs and gloo on CPU."""
    if not cuda:
        # DeepSpeed's shared-memory collectives compile for a minute on first
        # use, which no small job on a laptop earns back; even asking whether
        # they could be built calls the compiler.
        # (As an attribute, deepspeed.comm.torch is torch itself.)
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    alone = os.environ["WORLD_SIZE"] == "1"
    if alone:
        be_alone(cuda)
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    if alone:
        _sums_of_one()


def _sums_of_one() -> None:
    """Leave a process that is alone its numbers as they are.

    NCCL takes a third of a second before its first sum, of one process as of many; what else DeepSpeed asks for, it
    still has to do.
    """
    module = importlib.import_module("deepspeed.comm.torch")
    backend = importlib.import_module("deepspeed.comm.comm").cdb

    def same(tensor: torch.Tensor, *_: object, **__: object) -> Any:
        return module.Noop()

    backend.all_reduce = backend.reduce = same


def start(model: torch.nn.Module, job: FinetuneJob, dtype: torch.dtype, steps: int, cuda: bool) -> DeepSpeedEngine:
    """Put a model under DeepSpeed with AdamW and the job's schedule.

    Weight decay spares biases and norms, as usual.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if _dimensions(p) >= 2], "weight_decay": job.weight_decay},
        {"params": [p for p in trained if _dimensions(p) < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=job.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        # One kernel for all of them; one pass over memory for those offloaded, six times as quick.
        fused=cuda or job.offload != "none",
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, steps, job.schedule, job.warmup_ratio)
    )
    config = settings(job, dtype, sum(p.numel() for p in trained))
    with ExitStack() as stack:
        # Quadratic in the number of matrices, which are a model's own and so no two the same.
        stack.enter_context(instead(DeepSpeedEngine, "_check_for_duplicates", lambda *_: None))
        if job.alone:
            # One broadcast per tensor, to nobody.
            stack.enter_context(instead(DeepSpeedEngine, "_broadcast_model", lambda _: None))
        if job.tuning == "lora":
            # It has nothing large to place, and what is cached was taken early on purpose.
            zero = importlib.import_module("deepspeed.runtime.zero.stage_1_and_2")
            stack.enter_context(instead(zero, "empty_cache", lambda: None))
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=config)
    return engine


def gradients_finite(engine: DeepSpeedEngine) -> bool:
    """Whether the step that is about to be taken has gradients that are finite numbers; the same in every process.

    Stages that shard the optimizer's state look for themselves, and step
    nothing; see :func:`stepped`.
    """
    if engine.zero_optimization_stage() > 0:
        return True
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return bool(torch.nn.utils.get_total_norm(gradients).isfinite())


def stepped(engine: DeepSpeedEngine) -> bool:
    """Whether the last step has changed the weights, as DeepSpeed leaves out one with gradients that are not finite."""
    return engine.was_step_applied()


@contextmanager
def meeting(engine: DeepSpeedEngine) -> Iterator[None]:
    """Have NCCL connect the processes that reduce gradients, a third of a second, beside what has no collectives."""
    group = getattr(engine.optimizer, "dp_process_group", None)
    # Who is alone has nobody to meet. Under ZeRO-3 forward passes gather weights.
    alone = dist.get_world_size() == 1
    if group is None or alone or engine.device.type != "cuda" or engine.zero_optimization_stage() == 3:
        yield
        return

    def meet() -> None:
        # A thread's own GPU is the first one otherwise.
        with torch.cuda.device(engine.device):
            deepspeed.comm.all_reduce(torch.zeros(1, device=engine.device), group=group)

    thread = Thread(target=meet, daemon=True)
    thread.start()
    yield
    thread.join()


def _dimensions(parameter: torch.nn.Parameter) -> int:
    # Under ZeRO-3 what is here is a flat part of it.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def trained_weights(engine: DeepSpeedEngine, *, adapter: bool) -> dict[str, torch.Tensor]:
    """Weights, whole on rank 0; every process has to call this.

    Adapters come in float32, from the optimiser's own copy where the model
    computes in bfloat16: rounding them each iteration would lose small steps.
    They lie where the model does, all others on CPU.
    """
    if adapter:
        names = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
        return {name: _whole(parameter) for name, parameter in names}
    if engine.zero_optimization_stage() == 3:
        return engine._zero3_consolidated_16bit_state_dict() or {}
    return {name: tensor.detach().cpu() for name, tensor in engine.module.state_dict().items()}


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    if parameter.dtype != torch.float32:
        master = deepspeed.utils.safe_get_full_fp32_param(parameter)
        if master is not None:
            return master.detach()
    if not hasattr(parameter, "ds_id"):
        return parameter.detach().float()
    with deepspeed.zero.GatheredParameters([parameter]):
        # It is here for as long as this lasts.
        return parameter.detach().to("cpu", torch.float32, copy=True)
