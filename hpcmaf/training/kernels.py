"""Fused kernels for a model's small operations, where liger-kernel is installed."""

from __future__ import annotations

import importlib
import importlib.util
from threading import Thread

import torch

from hpcmaf.training.unneeded import import_liger


def begin_triton() -> None:
    """Begin what Triton does before its first kernel: it hashes its own files, for the names by which it keeps kernels.

    Half a second, most of it without Python's lock; whoever launches a kernel before the end does it all again.
    """
    if importlib.util.find_spec("triton") is not None:
        key = getattr(importlib.import_module("triton.runtime.cache"), "triton_key", None)
        if key is not None:
            Thread(target=key, daemon=True).start()


def preload() -> None:
    """Import liger's kernels, where they are installed."""
    if importlib.util.find_spec("liger_kernel") is not None:
        import_liger()


def use_liger(model: torch.nn.Module) -> tuple[bool, str]:
    """Replace norms, rotary positions and gated activations by liger's.

    The loss is left alone: only positions that carry loss get logits here.

    Returns
    -------
    tuple
        Whether it was done, and a word for the log.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        return False, "no liger kernels (pip install liger-kernel)"
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = inner.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False, f"no liger kernels (none for {kind})"
    _apply_liger_kernel_to_instance(model=inner, fused_linear_cross_entropy=False, cross_entropy=False)
    return True, "liger kernels"
