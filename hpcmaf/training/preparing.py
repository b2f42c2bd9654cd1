"""What is settled once a job's model is loaded: ZeRO stage, kernels, what is computed twice. Said in the log."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from hpcmaf.errors import TrainingError
from hpcmaf.training.adapters import quicken
from hpcmaf.training.fp8 import round_base
from hpcmaf.training.gated import gate
from hpcmaf.training.memory import Keeps, activations, choose_passes, choose_stage, size_of
from hpcmaf.training.model import checkpoint_layers
from hpcmaf.training.process import Process
from hpcmaf.training.spec import FinetuneJob

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def prepare(
    model: torch.nn.Module,
    job: FinetuneJob,
    config: PretrainedConfig,
    dtype: torch.dtype,
    process: Process,
    *,
    packed: bool,
    logits: float,
) -> FinetuneJob:
    """Make a model ready for DeepSpeed, and say how it will be trained.

    ``logits`` is the share of a text's tokens that carry loss. The job comes
    back with a ZeRO stage instead of ``"auto"``, and forward passes that fit.

    Raises
    ------
    ConfigError, TrainingError
        The frozen base is to be rounded and cannot be, or is not of the type
        to compute in.
    """
    cuda = process.device.type == "cuda"
    rounded = round_base(model, process.device) if job.quantize == "fp8" else 0
    size = size_of(model.parameters(), dtype.itemsize)
    memory = [_smallest(torch.cuda.mem_get_info()[1], process)] if cuda else []
    said = [f"{size.parameters / 1e6:,.1f} M parameters, {size.trained / 1e6:,.1f} M of them trained ({job.tuning})"]
    said += [
        f"{str(dtype).removeprefix('torch.')} with float32 master weights" if dtype == torch.bfloat16 else "float32"
    ]
    if size.in_4_bits:
        said += [f"{size.in_4_bits / 1e6:,.1f} M of them in 4 bits"]
    if rounded:
        said += [f"{rounded / 1e6:,.1f} M of them in fp8"]
    if job.zero_stage == "auto":
        # What may be computed twice need not make anyone talk more.
        frugal = replace(job, gradient_checkpointing=job.gradient_checkpointing is not False)
        stage, why = choose_stage(size, process.world_size, job.offload, activations(frugal, config), memory)
        job = replace(job, zero_stage=stage)
        if process.first:
            print(why, flush=True)
    # DeepSpeed's stage 0 has no float32 weights beside bfloat16 ones.
    job = replace(job, zero_stage=max(int(job.zero_stage), int(dtype == torch.bfloat16)))
    said += [f"ZeRO-{job.zero_stage}" + (f", {job.offload} offloaded" if job.offload != "none" else "")]
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        said += ["loaded in parts"]
    if job.tuning == "lora":
        frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
        # A model may insist on another type for a few of them.
        odd = [p for p in frozen if p.dtype != dtype]
        if 2 * len(odd) > len(frozen):
            raise TrainingError(f"{job.base}: its frozen weights are {odd[0].dtype}, to be computed in {dtype}")
    said += ["packed" if packed else "padded"]
    fused, gated = False, False
    if cuda:
        fused, word = _use_liger(model)
        said += [word]
    if job.tuning == "lora":
        # Under ZeRO-3 weights come and go by hooks that this would pass by.
        count, units, of = (quicken(model), *gate(model)) if job.zero_stage != 3 else (0, 0, 0)
        fused, gated = fused and count > 0, 0 < units == of
        said += [f"{count} adapted layers fused, {units} gated units kept by halves"]
    if job.gradient_checkpointing == "auto":
        keeps = Keeps(fused=fused, gated=gated, logits=logits)
        micro, count, why = choose_passes(
            size, int(job.zero_stage), process.world_size, job, config, memory, keeps
        )
        job = replace(job, micro_batch_size=micro)
        checkpoint_layers(model, count)
        if process.first:
            print(why, flush=True)
    else:
        checkpoint_layers(model, None if job.gradient_checkpointing else 0)
    if process.first:
        print("training " + "; ".join(said), flush=True)
    return job


def _smallest(own: int, process: Process) -> int:
    """All processes have to choose alike, whatever their GPUs are."""
    smallest = torch.tensor(own, dtype=torch.int64, device=process.device)
    if process.world_size > 1:
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    return int(smallest)


def _use_liger(model: torch.nn.Module) -> tuple[bool, str]:
    """Replace norms, rotary positions and gated activations by liger-kernel's, where it is installed.

    The loss is left alone: only positions that carry loss get logits here.
    Returns whether it was done, and a word for the log.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        return False, "no liger kernels (pip install liger-kernel)"
    from liger_kernel import transformers as liger

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = inner.config.model_type
    apply = getattr(liger, f"apply_liger_kernel_to_{kind}", None)
    if apply is None:
        return False, f"no liger kernels (none for {kind})"
    apply(model=inner, fused_linear_cross_entropy=False, cross_entropy=False)
    return True, "liger kernels"
