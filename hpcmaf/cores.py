"""How many cores there are to use, and which GPUs."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from itertools import takewhile
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on, which Slurm and containers limit; all, where a system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """GPUs this process may use, found without loading torch: numbers, or names such as ``GPU-...`` and ``MIG-...``."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # CUDA reads no further than a name that stands for none, such as -1 or NoDevFiles.
        names = (name.strip() for name in named.split(","))
        return list(takewhile(re.compile(r"\d+$|GPU-|MIG-").match, names))
    return sorted((path.name[6:] for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()), key=int)


def gpus(*wanted: str) -> list[list[str]]:
    """What nvidia-smi says of each GPU of this machine; name, compute capability and MiB unless told otherwise."""
    query = ["nvidia-smi", f"--query-gpu={','.join(wanted) or 'name,compute_cap,memory.total'}"]
    with suppress(OSError, subprocess.SubprocessError):
        command = [*query, "--format=csv,noheader,nounits"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        return [line.split(", ") for line in made.splitlines()]
    return []
