"""An adapter and its base as one model that needs no adapter: for servers and tools that know none."""

from __future__ import annotations

import json
from pathlib import Path

from hpcmaf.errors import DataError, TrainingError
from hpcmaf.files.publish import atomic_path

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def merge_adapter(
    base: str | Path,
    adapter: Path,
    out: Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
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
    _check(adapter)
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", **settings)
        tokenizer = AutoTokenizer.from_pretrained(base, **settings)
    except Exception as error:  # a damaged checkpoint makes the loaders raise almost anything
        raise TrainingError(f"model {base}: cannot be loaded ({_line(error)}); check the files there") from error
    own = model.dtype
    try:
        adapted = PeftModel.from_pretrained(model.float(), adapter)
        with safe_open(adapter / _WEIGHTS, "pt") as file:
            # PEFT itself only warns of what it finds no place for, or misses.
            foreign = sorted(set(file.keys()) ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False)))
        if foreign:
            raise ValueError(f"{len(foreign)} weights of one are not in the other, such as {foreign[0]}")
        merged = adapted.merge_and_unload(safe_merge=True)
    except Exception as error:  # as above
        raise DataError(f"{adapter}: does not fit {base} ({_line(error)}); name the base it was trained on") from error
    merged.to(own)
    with atomic_path(out) as temporary, torch.no_grad():
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        source = Path(base)
        # A model that brings its own code needs it beside it.
        for path in sorted(source.glob("*.py")) if trust_remote_code and source.is_dir() else ():
            (temporary / path.name).write_bytes(path.read_bytes())
    return out


def _check(adapter: Path) -> None:
    if (adapter / "config.json").is_file() and not (adapter / _CONFIG).exists():
        raise DataError(f"{adapter}: a whole checkpoint, which needs no merging; copy the folder as it is")
    for name in (_CONFIG, _WEIGHTS):
        if not (adapter / name).is_file():
            raise DataError(f"{adapter}: not an adapter (no {name}); name a folder that finetuning has published")
    try:
        kind = json.loads((adapter / _CONFIG).read_bytes())["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{adapter / _CONFIG}: not an adapter's configuration ({error!r}); finetune again") from error
    if kind != "LORA":
        raise DataError(f"{adapter}: an adapter of kind {kind}, where only LORA can be merged")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
