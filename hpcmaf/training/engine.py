"""A model under DeepSpeed, and its trained weights out of it again."""

from __future__ import annotations

import os
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.workarounds import without_shared_memory_collectives

# DeepSpeed's own size of communication buckets, in elements.
_BUCKET = 500_000_000
# Parameters that are stepped at once; its own, ten times as many, take 4 GB more than they save time.
_STEPPED = 100_000_000


def _settings(job: FinetuneJob, dtype: torch.dtype, trainable: int, universal: bool) -> dict[str, Any]:
    """DeepSpeed's configuration for a job; ``universal``: its checkpoint comes from another number of processes."""
    # Buckets are allocated whole, and an adapter's few parameters do not need the default's 2 GB.
    bucket = max(1, min(_BUCKET, trainable))
    pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    zero: dict[str, Any] = {
        "stage": job.zero_stage,
        # Who reduces nothing needs no bucket, nor a hook for each gradient that fills one.
        "contiguous_gradients": not (job.alone and job.zero_stage == 1 and job.offload == "none"),
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        # Under stage 3: gradients take float32's room for so many at a time.
        "sub_group_size": _STEPPED,
    }
    if job.offload != "none":
        zero["offload_optimizer"] = pinned
    if job.offload == "params":
        zero["offload_param"] = pinned
    return {
        "train_micro_batch_size_per_gpu": job.micro_batch_size,
        # The true number varies with the last batch of an epoch: the loop
        # marks the boundary itself and weights the loss by tokens.
        "gradient_accumulation_steps": 1,
        "gradient_clipping": job.max_grad_norm,
        # A step with gradients that are not finite is left out, and the loop stops.
        "bf16": {"enabled": dtype == torch.bfloat16, "check_grad_overflow": True},
        "zero_optimization": zero,
        "checkpoint": {"load_universal": universal},
        # torch's AdamW: DeepSpeed's own ones compile for over a minute first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
        # Its clock would wait for the GPU at both ends of every forward pass,
        # which could otherwise be prepared while the last one is computed.
        "timers": {"throughput": {"enabled": False}},
    }


def connect(cuda: bool) -> None:
    """Join the other processes, where there are any, by NCCL on GPUs and gloo on CPU; once in a process's life."""
    if dist.is_initialized():
        return
    backend = "nccl" if cuda else "gloo"
    if not cuda:
        without_shared_memory_collectives()
    if os.environ["WORLD_SIZE"] == "1":
        # Without an address, for which there would have to be a free port.
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def start(
    model: torch.nn.Module, job: FinetuneJob, dtype: torch.dtype, steps: int, cuda: bool, *, universal: bool = False
) -> DeepSpeedEngine:
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
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: job.rate_factor(step, steps))
    config = _settings(job, dtype, sum(p.numel() for p in trained), universal)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=config)
    return engine


def finite_step(engine: DeepSpeedEngine) -> bool:
    """Step the optimizer if gradients are finite numbers; returns whether they are, the same in every process."""
    # Stages that shard the optimizer's state look for themselves, and then step nothing.
    if engine.zero_optimization_stage() == 0:
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            return False
    engine.step()
    return engine.was_step_applied()


def _dimensions(parameter: torch.nn.Parameter) -> int:
    # Under ZeRO-3 what is here is a flat part of it.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def trained_weights(engine: DeepSpeedEngine, *, adapter: bool) -> dict[str, torch.Tensor | None]:
    """Weights, whole in the first process at least; every process has to call this.

    Adapters come in float32, from the optimiser's own copy where the model
    computes in bfloat16: rounding them each iteration would lose small steps.
    """
    if adapter:
        return {name: _master(p) for name, p in engine.module.named_parameters() if p.requires_grad}
    # As parameters, for ZeRO-3 to gather; tied ones are there under all their names.
    named, keep = engine.module.state_dict(keep_vars=True), engine.global_rank == 0
    each = {id(value): value for value in named.values()}
    found = {key: _whole(value, keep) for key, value in each.items()}
    return {name: found[id(value)] for name, value in named.items()}


def _whole(value: torch.Tensor, keep: bool, dtype: torch.dtype | None = None) -> torch.Tensor | None:
    # Under ZeRO-3 it is here for as long as this lasts.
    with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
        return value.detach().to("cpu", dtype, copy=True) if keep else None


def _master(parameter: torch.nn.Parameter) -> torch.Tensor | None:
    master = None if parameter.dtype == torch.float32 else deepspeed.utils.safe_get_full_fp32_param(parameter)
    return _whole(parameter, True, torch.float32) if master is None else master.detach()
