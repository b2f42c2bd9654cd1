"""Packages and GPUs that only some recipes need."""

from __future__ import annotations

import importlib.util
import re

from hpcmaf.errors import ConfigError

# NVIDIA's before Ada, by the names that sites give them.
_WITHOUT_FP8 = re.compile(r"(?<![a-z0-9])(a10|a16|a30|a40|a100|a800|v100s?|t4|p100|a[456]000)(?![0-9])", re.IGNORECASE)


def check_packages(*, quantize: str) -> None:
    """Refuse, by ``ConfigError``, a training that lacks a package here; imports none."""
    if quantize == "4bit" and not _installed("bitsandbytes"):
        raise ConfigError(
            "training.quantize is 4bit, but bitsandbytes is not installed; pip install 'hpcmaf[qlora]'"
        )


def check_gpu_type(*, quantize: str, gpu_type: str | None) -> None:
    """Refuse a training that GPUs of a kind cannot do, where the site says which it has.

    ``gpu_type`` is as Slurm calls it, such as ``a100`` or ``nvidia_a100_80gb_pcie``.
    """
    if quantize == "fp8" and gpu_type and _WITHOUT_FP8.search(gpu_type):
        raise ConfigError(
            f"training.quantize: {gpu_type}, slurm.gpu_type, cannot multiply fp8 "
            "(Ada, Hopper and later can); leave it out"
        )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # loaded by something that left no trace of where from
        return False
