"""A trained model as files: safetensors, readable by PEFT and transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from hpcmaf.errors import TrainingError
from hpcmaf.training.model import copy_remote_code
from hpcmaf.training.spec import FinetuneJob

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse to publish a model that has diverged in its last step.

    Raises
    ------
    TrainingError
        A weight is not a finite number.
    """
    for name, tensor in weights.items():
        # The ends of a range with something in it that is not finite are not: one look at each number.
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise TrainingError(f"diverged: {name} holds values that are not finite; lower the learning rate")


def on_cpu(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that may be published, in the machine's memory.

    Raises
    ------
    TrainingError
        See :func:`check_finite`.
    """
    check_finite(weights)
    return {name: tensor.cpu() for name, tensor in weights.items()}


def save_adapter(model: torch.nn.Module, weights: dict[str, torch.Tensor], job: FinetuneJob, output: Path) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``.

    PEFT's own writer asks the hub about the base and lists target modules in
    a set's random order; this one does neither, so equal adapters are equal
    bytes.
    """
    tensors = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        output / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": job.base, "revision": job.revision, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, default=lambda value: sorted(value))
    (output / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def save_checkpoint(
    model: torch.nn.Module,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    job: FinetuneJob,
    output: Path,
) -> None:
    """Write a whole model with its tokenizer and generation settings."""
    model.save_pretrained(output, state_dict=weights)
    tokenizer.save_pretrained(output)
    copy_remote_code(job, output)
