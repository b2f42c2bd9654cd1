"""What is settled once a job's model is loaded, and logged: ZeRO stage, kernels, what is computed twice."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.fp8 import round_base
from hpcmaf.training.lora_fused import fuse_adapters
from hpcmaf.training.memory import Memory, size_of
from hpcmaf.training.mlp_fused import fuse_mlps
from hpcmaf.training.model import checkpoint_layers, inner_model
from hpcmaf.training.process import Process

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
    """Make a model ready for DeepSpeed, and log how it will be trained.

    ``logits`` is the share of a text's tokens that carry loss. The job comes
    back with a ZeRO stage instead of ``"auto"``, and forward passes that fit.

    Raises
    ------
    ConfigError
        The frozen base is to be rounded and cannot be.
    """
    lora, lines = job.tuning == "lora", []
    rounded = round_base(model, process.device) if job.quantize == "fp8" else 0
    size = size_of(model.parameters(), dtype.itemsize)
    # All processes have to choose alike, whatever their GPUs are.
    gpu = -int(process.largest(-torch.cuda.mem_get_info()[1])) if process.cuda else None
    memory = Memory(job, config, size, process.world_size, gpu)
    stage = job.zero_stage
    if stage == "auto":
        stage, why = memory.choose_stage()
        lines.append(why)
    # DeepSpeed's stage 0 has no float32 weights beside bfloat16 ones.
    stage = max(int(stage), int(dtype == torch.bfloat16))
    job = job.model_copy(update={"zero_stage": stage})
    liger, fused, units, of = "", 0, 0, 0
    if process.cuda:
        liger = _use_liger(model)
    if lora and stage != 3:
        # Under ZeRO-3 weights come and go by hooks that this would pass by.
        fused, (units, of) = fuse_adapters(model), fuse_mlps(model)
    if job.gradient_checkpointing == "auto":
        memory = replace(memory, fused=liger == _LIGER and fused > 0, gated=0 < units == of, logits=logits)
        micro, count, why = memory.choose_passes(stage)
        job = job.model_copy(update={"micro_batch_size": micro})
        checkpoint_layers(model, count)
        lines.append(why)
    else:
        checkpoint_layers(model, None if job.gradient_checkpointing else 0)
    in_parts = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    how = [
        f"{size.parameters / 1e6:,.1f} M parameters, {size.trained / 1e6:,.1f} M of them trained ({job.tuning})",
        "bfloat16 with float32 master weights" if dtype == torch.bfloat16 else "float32",
        f"{size.in_4_bits / 1e6:,.1f} M of them in 4 bits" if size.in_4_bits else "",
        f"{rounded / 1e6:,.1f} M of them in fp8" if rounded else "",
        f"ZeRO-{stage}" + (f", {job.offload} offloaded" if job.offload != "none" else ""),
        "loaded in parts" if in_parts else "",
        "packed" if packed else "padded",
        liger,
        f"{fused} adapted layers fused, {units} gated units kept by halves" if lora else "",
    ]
    if process.first:
        print(*lines, "training " + "; ".join(filter(None, how)), sep="\n", flush=True)
    return job


_LIGER = "liger kernels"


def _use_liger(model: torch.nn.Module) -> str:
    """Replace norms, rotary positions and gated activations by liger-kernel's, where it is installed.

    The loss is left alone: only positions that carry loss get logits here. Returns what was done, for the log.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        return f"no {_LIGER} (pip install liger-kernel)"
    from liger_kernel import transformers as liger

    inner = inner_model(model)
    kind = inner.config.model_type
    apply = getattr(liger, f"apply_liger_kernel_to_{kind}", None)
    if apply is None:
        return f"no {_LIGER} (none for {kind})"
    apply(model=inner, fused_linear_cross_entropy=False, cross_entropy=False)
    return _LIGER
