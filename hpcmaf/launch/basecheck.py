"""Is there a base model where the recipe says? Asked before anything is planned.

A job would find out, too, but by then the run is bound to a plan that names
the wrong model.
"""

from __future__ import annotations

import re
from pathlib import Path

from hpcmaf.config.recipe import Lora, Model
from hpcmaf.engines.basemodel import base_model
from hpcmaf.errors import ConfigError, DataError
from hpcmaf.files.hub import SECONDS, ask_hub, reason
from hpcmaf.files.publish import Record, read_json

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_WEIGHTS = {".safetensors", ".bin"}


def check_base(model: Model) -> None:
    """Look for the base's configuration, tokenizer and weights; loads none of them.

    A model of the hub is asked for its configuration, which lands in the
    cache that the jobs read.

    Raises
    ------
    ConfigError
        The path leads to no model, or the hub has none of this name for us.
    """
    path = base_model(model.path)
    if Path(path).is_dir():
        _check_folder(Path(path))
    elif _HUB_ID.fullmatch(path):
        _check_hub(path, model.revision)
    else:
        raise ConfigError(f"model.path: {path} is no folder here, nor could it be a Hugging Face id; check the path")


def _check_folder(folder: Path) -> None:
    try:
        read_json(folder / "config.json", Record)
    except FileNotFoundError:
        raise ConfigError(f"model.path: {folder} holds no model (config.json is missing); check the path") from None
    except DataError as error:
        raise ConfigError(f"model.path: {folder}/config.json is torn; copy the model again") from error
    names = {path.name for path in folder.iterdir()}
    if names.isdisjoint(_TOKENIZERS):
        raise ConfigError(f"model.path: {folder} holds no tokenizer ({_TOKENIZERS[0]}); copy it there from the model")
    if not any(Path(name).suffix in _WEIGHTS for name in names):
        raise ConfigError(f"model.path: {folder} holds no weights (*.safetensors or *.bin); copy them there")


def check_targets(model: Model, lora: Lora) -> None:
    """Refuse LoRA targets that are nowhere in the base, before a debate is held for them.

    Names are read from the headers of safetensors files; other bases are left
    to the finetuning job.

    Raises
    ------
    ConfigError
        No module of the base has such a name.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(Path(base_model(model.path)).glob("*.safetensors"))
    if lora.targets == "all-linear" or not files:
        return
    modules: set[str] = set()
    for file in files:
        try:
            with safe_open(file, framework="numpy") as opened:
                modules.update(name.rpartition(".")[0] for name in opened.keys())
        except SafetensorError as error:
            raise ConfigError(f"model.path: {file} is torn; copy the model again") from error
    if not any(module == target or module.endswith(f".{target}") for module in modules for target in lora.targets):
        known = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
        raise ConfigError(f"training.lora.targets: {', '.join(lora.targets)} not found in {model.path}; it has {known}")


def _check_hub(name: str, revision: str | None) -> None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        ask_hub(lambda hub: hub.model_info(name, revision=revision, timeout=SECONDS))
        hf_hub_download(name, "config.json", revision=revision)
    except Exception as error:
        # The hub's client has a dozen classes for this, of several bases.
        raise ConfigError(
            f"model.path: {name} is no folder here, and not to be had from the hub "
            f"({reason(error)}); check the name and the network, or name a folder with the model"
        ) from error
