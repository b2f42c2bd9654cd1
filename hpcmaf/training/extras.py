"""Packages that only some recipes need."""

from __future__ import annotations

import importlib.util

from hpcmaf.errors import ConfigError

# What needs them, and which of our extras brings them.
_PACKAGES = {
    "trl": ("training.objective is dpo", "dpo"),
    "bitsandbytes": ("training.quantize is 4bit", "qlora"),
}


def check_packages(*, objective: str, quantize: str) -> None:
    """Refuse a training that lacks a package here; imports none.

    Raises
    ------
    ConfigError
        With what to install.
    """
    wanted = ["trl"] * (objective == "dpo") + ["bitsandbytes"] * (quantize == "4bit")
    for package in wanted:
        if not _installed(package):
            why, extra = _PACKAGES[package]
            raise ConfigError(f"{why}, but {package} is not installed; pip install 'hpcmaf[{extra}]'")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # loaded by something that left no trace of where from
        return False
