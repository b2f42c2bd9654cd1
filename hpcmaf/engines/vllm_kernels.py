"""vLLM's LoRA kernels as they run fastest: settings that were measured, and one kernel of our own.

With vLLM 0.25's own, adapters of rank 16 take a quarter of a step of 512 rows
of an 8B model on an H100. Shrinking walks along the hidden size in many small
pieces, one after the other, and expanding starts far more blocks than have
work. ``tests/benchmarks/bench_lora_kernels.py`` finds better settings, and
``vllm_expand`` starts no more blocks than needed; the settings for expanding are
for what that leaves to vLLM's kernel. What they compute stays the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hpcmaf.engines.vllm_life import say
from hpcmaf.publish import write_json

# Rows of a step to (block_m, block_k, split_k, num_stages), and to (block_m, block_n).
SHRINK = {
    32: (32, 64, 32, 2),
    128: (64, 64, 16, 3),
    256: (32, 64, 32, 3),
    512: (64, 64, 32, 3),
    1024: (64, 128, 16, 2),
    2048: (64, 128, 8, 3),
    4096: (64, 128, 4, 3),
    8192: (64, 128, 4, 2),
}
EXPAND = {
    32: (16, 128),
    128: (32, 256),
    256: (64, 128),
    512: (32, 256),
    1024: (32, 256),
    2048: (64, 256),
    4096: (64, 256),
    8192: (64, 256),
}
# Where they were measured: Hopper, and slots of rank 16.
_CAPABILITY, _RANK = (9, 0), 16
_FOLDER, _VARIABLE = "lora-kernels", "VLLM_TUNED_CONFIG_FOLDER"


def shrink_setting(block_m: int, block_k: int, split_k: int, num_stages: int) -> dict[str, Any]:
    """Arguments of vLLM's kernel from the hidden size down to the rank."""
    sizes = {"block_m": block_m, "block_n": 16, "block_k": block_k, "split_k": split_k, "group_size_m": 8}
    return sizes | {"num_warps": 4, "num_ctas": 1, "num_stages": num_stages, "max_nreg": None}


def expand_setting(block_m: int, block_n: int) -> dict[str, Any]:
    """Arguments of vLLM's kernel from the rank up to the output's size."""
    sizes = {"block_m": block_m, "block_n": block_n, "block_k": 16}
    return sizes | {"num_warps": 4, "num_ctas": 1, "num_stages": 2, "max_nreg": None}


def tables() -> dict[str, dict[str, Any]]:
    """What vLLM looks for, by the end of its file's name.

    Settings lie under adapters, projections in one matrix, rows, and the two
    sizes of an adapter's matrix. Of rows, adapters and sizes vLLM takes the
    nearest; every number of projections has to be there.
    """
    shrink = {str(m): {"4096": {str(_RANK): shrink_setting(*values)}} for m, values in SHRINK.items()}
    expand = {str(m): {str(_RANK): {"4096": expand_setting(*values)}} for m, values in EXPAND.items()}
    by_slices = [{"8": {str(slices): table for slices in (1, 2, 3)}} for table in (shrink, expand)]
    return {"SHRINK": by_slices[0], "EXPAND_TRUE": by_slices[1], "EXPAND_FALSE": by_slices[1]}


def use_measured_kernels(cache: Path, rank: int) -> None:
    """Have vLLM take the kernel of our own and the settings above, on a GPU like that where they were measured.

    Parameters
    ----------
    cache
        Folder to write them in; what cannot be written is done without.
    rank
        Of the slots that the engine will have.

    Notes
    -----
    Sets ``VLLM_TUNED_CONFIG_FOLDER``, unless the user has. To be called before
    the engine starts.
    """
    from vllm.platforms import current_platform

    if _VARIABLE in os.environ or rank > _RANK or not current_platform.is_cuda():
        return
    if tuple(current_platform.get_device_capability() or ()) != _CAPABILITY:
        return
    use_compact_kernel()
    folder = cache / _FOLDER
    name = current_platform.get_device_name().replace(" ", "_").replace("-", "_")
    try:
        write_tables(folder, name)
    except OSError:
        return
    os.environ[_VARIABLE] = str(folder)


def measured_kernels_in_use() -> bool:
    """Whether the process that started this one found them to be for this GPU."""
    return Path(os.environ.get(_VARIABLE, "")).name == _FOLDER


def use_compact_kernel() -> None:
    """Have vLLM's expanding kernel start the blocks that have work, and no others; see ``vllm_expand``."""
    try:
        from vllm.lora.ops.triton_ops import lora_expand_op

        from hpcmaf.engines.vllm_expand import CompactExpand

        plain = lora_expand_op._lora_expand_kernel
        if not isinstance(plain, CompactExpand):
            lora_expand_op._lora_expand_kernel = CompactExpand(plain)
    except (AttributeError, ImportError, ValueError) as reason:
        say(f"vLLM: its LoRA kernel stays as it is ({reason})")


def write_tables(folder: Path, gpu: str) -> None:
    """Write vLLM's files for one kind of GPU, each at once: other engines may be reading them."""
    folder.mkdir(parents=True, exist_ok=True)
    for end, table in tables().items():
        write_json(folder / f"{gpu}_{end}.json", table)
