"""How unlikely a model finds the target tokens of one forward pass."""

from __future__ import annotations

import inspect

import torch

from hpcmaf.training.attention import boundaries, to_device
from hpcmaf.training.data import IGNORED, MicroBatch


def negative_log_likelihood(model: torch.nn.Module, batch: MicroBatch, device: torch.device) -> torch.Tensor:
    """Of each target token of a micro-batch, in nats: float32[B, K], 0 where there is no target.

    Logits are made where a target follows only: with a vocabulary of 128k
    those of a whole text take more memory than the model's activations.
    """
    arguments: dict[str, object] = {"input_ids": to_device(batch.input_ids, device)}
    if batch.lengths is not None:
        positions = torch.cat([torch.arange(length) for length in batch.lengths])[None]
        arguments["position_ids"] = to_device(positions, device)
        arguments |= boundaries(list(batch.lengths), device)
    elif batch.attention_mask is not None:
        arguments["attention_mask"] = to_device(batch.attention_mask, device)
    keep, labels = to_device(batch.keep, device), to_device(batch.labels, device)
    if _keeps_logits(model):
        logits = model(**arguments, use_cache=False, logits_to_keep=keep).logits
    else:
        logits = model(**arguments, use_cache=False).logits[:, keep]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)


def _keeps_logits(model: torch.nn.Module) -> bool:
    inner = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
