"""A trained model as files: safetensors, readable by PEFT and transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import torch

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


class Landing:
    """Memory of the machine for an adapter that will come from a GPU, given to this process before it comes.

    A system gives memory when it is first written to, page by page, which takes ten times as long as the copy.

    Parameters
    ----------
    numbers
        Float32 numbers.
    """

    def __init__(self, numbers: int) -> None:
        self._room = torch.empty(numbers)
        self._writing = Thread(target=self._room.zero_, daemon=True)
        self._writing.start()

    @classmethod
    def of(cls, model: torch.nn.Module, job: FinetuneJob) -> Landing | None:
        """For a job's adapter; ``None`` where it comes in parts, or is here already."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        parts = any(hasattr(parameter, "ds_id") for parameter in trained)
        if job.tuning != "lora" or parts or not all(parameter.is_cuda for parameter in trained):
            return None
        return cls(sum(parameter.numel() for parameter in trained))

    def take(self) -> torch.Tensor:
        """It, once."""
        self._writing.join()
        return self._room


def in_one_copy(weights: Mapping[str, torch.Tensor], landing: Landing | None = None) -> dict[str, torch.Tensor]:
    """Weights of one type on one GPU, in the machine's memory as parts of one tensor, if all are finite."""
    joined = torch.cat([tensor.flatten() for tensor in weights.values()])
    if not joined.isfinite().all():
        check_finite(weights)
    room = landing.take() if landing is not None else None
    fits = room is not None and (room.shape, room.dtype) == (joined.shape, joined.dtype)
    parts = (room.copy_(joined) if fits else joined.cpu()).split([tensor.numel() for tensor in weights.values()])
    return {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}


def on_cpu(weights: Mapping[str, torch.Tensor], landing: Landing | None = None) -> dict[str, torch.Tensor]:
    """Weights that may be published, in the machine's memory: from a GPU in one copy, as each of a thousand waits.

    Raises
    ------
    TrainingError
        See :func:`check_finite`.
    """
    kinds = {(tensor.device, tensor.dtype) for tensor in weights.values()}
    if len(kinds) != 1 or not next(iter(weights.values())).is_cuda:
        check_finite(weights)
        return {name: tensor.cpu() for name, tensor in weights.items()}
    return in_one_copy(weights, landing)


def save_adapter(model: torch.nn.Module, weights: dict[str, torch.Tensor], job: FinetuneJob, output: Path) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``.

    PEFT's own writer asks the hub about the base and lists target modules in
    a set's random order; this one does neither, so equal adapters are equal
    bytes.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

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
