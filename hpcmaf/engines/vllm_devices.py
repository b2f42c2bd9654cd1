"""Which GPUs each of a task's engines gets."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hpcmaf.engines.vllm_options import VllmOptions
from hpcmaf.errors import PlatformError


def environments(device: str, options: VllmOptions) -> list[Mapping[str, str]]:
    """What to add to the environment of each engine's process.

    Raises
    ------
    PlatformError
        This task has fewer GPUs than its engines need.
    """
    if device != "cuda" or options.engines == 1:
        return [{} for _ in range(options.engines)]
    visible = visible_devices()
    each = options.tensor_parallel
    if len(visible) < options.engines * each:
        raise PlatformError(
            f"generation.engines: {options.engines} engines of {each} GPU{'s' * (each > 1)} each, but this task sees "
            f"{len(visible)}; lower generation.engines, or ask for more GPUs in the profile"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(visible[n * each : (n + 1) * each])} for n in range(options.engines)]


def visible_devices() -> list[str]:
    """Names of this process's GPUs: numbers, or ids where Slurm or a user gave those."""
    import torch

    # What was named is what the engines have to be told; torch's own numbers begin at 0 whatever that was.
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]
