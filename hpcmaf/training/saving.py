"""A trained model as files: safetensors, readable by PEFT and transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from hpcmaf.errors import DataError, TrainingError, brief
from hpcmaf.files.publish import atomic_path
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.model import load_config, load_model, loading, weights_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def on_cpu(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that may be published, in the machine's memory.

    Raises
    ------
    TrainingError
        One is not a finite number: the model has diverged in its last step.
    """
    for name, tensor in weights.items():
        # The ends of a range with something in it that is not finite are not: one look at each number.
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise TrainingError(f"diverged: {name} holds values that are not finite; lower the learning rate")
    return {name: tensor.cpu() for name, tensor in weights.items()}


def save_adapter(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], job: FinetuneJob, output: Path) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``.

    PEFT's own writer asks the hub about the base and lists target modules in a set's random order; this one does
    neither, so equal adapters are equal bytes.
    """
    tensors = get_peft_model_state_dict(model, state_dict=on_cpu(weights), save_embedding_layers=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, output / _WEIGHTS, metadata={"format": "pt"}
    )
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": job.base, "revision": job.revision, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, default=lambda value: sorted(value))
    (output / _CONFIG).write_text(text + "\n", encoding="utf-8")


def save_checkpoint(
    model: torch.nn.Module,
    weights: Mapping[str, torch.Tensor] | None,
    tokenizer: PreTrainedTokenizerBase,
    job: FinetuneJob,
    output: Path,
) -> None:
    """Write a whole model, by default with its own weights, with tokenizer and generation settings."""
    model.save_pretrained(output, state_dict=None if weights is None else on_cpu(weights))
    tokenizer.save_pretrained(output)
    source = Path(weights_path(job))
    # A model that brings its own code needs it beside it.
    for path in sorted(source.glob("*.py")) if job.trust_remote_code and source.is_dir() else ():
        (output / path.name).write_bytes(path.read_bytes())


def merge_adapter(
    base: str | Path, adapter: Path, out: Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Path:
    """Add an adapter's product to its base's weights and publish the sum as a whole checkpoint; returns ``out``.

    The weights keep the base's own type. The sum is made in float32 and
    rounded once: an adapter's small steps would be lost in bfloat16's.

    Parameters
    ----------
    base, revision, trust_remote_code
        Folder or hub id of the model that the adapter was trained on, as in the recipe.
    adapter, out
        A PEFT folder, as finetuning publishes it; what is published, with
        tokenizer and generation settings, in the place of what was there.

    Raises
    ------
    DataError
        ``adapter`` is no adapter, or it does not fit the base.
    TrainingError
        The base cannot be loaded.
    """
    adapter, out = Path(adapter), Path(out)
    job = FinetuneJob(
        base=str(base), dataset="", output=str(out), revision=revision, trust_remote_code=trust_remote_code
    )
    model = load_model(job, load_config(job), "auto")
    with loading(job) as source:
        tokenizer = AutoTokenizer.from_pretrained(**source)
    dtype = model.dtype
    try:
        adapted = PeftModel.from_pretrained(model.float(), adapter)
        with safe_open(adapter / _WEIGHTS, "pt") as file:
            # PEFT itself only warns of what it finds no place for, or misses.
            odd = sorted(set(file.keys()) ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False)))
        if odd:
            raise ValueError(f"{len(odd)} weights of one are not in the other, such as {odd[0]}")
        merged = adapted.merge_and_unload(safe_merge=True)
    except Exception as error:  # whatever PEFT and safetensors raise
        raise DataError(
            f"{adapter}: does not fit {base} ({brief(error)}); name the base it was trained on"
        ) from error
    with atomic_path(out) as temporary, torch.no_grad():
        save_checkpoint(merged.to(dtype), None, tokenizer, job, temporary)
    return out
