"""What vLLM compiles is kept between jobs, and compiled by one job at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcmaf.usercache import user_cache, writable


def cache_folder() -> Path:
    """Folder for compiled kernels: the user's cache, or a temporary one where there is no home to write to."""
    named = os.environ.get("VLLM_CACHE_ROOT")
    return writable(Path(named), "vllm") if named else user_cache("vllm")


@contextmanager
def under_one_name(model: str) -> Iterator[str]:
    """A name for a checkpoint that others of its shape have too, as long as this lasts.

    vLLM takes the model's path for part of what decides how it is compiled,
    and would compile each agent's checkpoint anew. So it is told ``model``, in
    a working directory where that leads to the checkpoint. For a process of
    the engine's own only.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="hpcmaf-model-") as folder:
        Path(folder, "model").symlink_to(Path(model).resolve())
        os.chdir(folder)
        try:
            yield "model"
        finally:
            os.chdir(before)


@contextmanager
def compiling(folder: Path, shape: dict[str, Any]) -> Iterator[None]:
    """Start an engine: alone if nobody has compiled this shape before, else at once.

    A hundred shards that start together would each compile the same; so the
    first does, the others wait, and find it done.

    Parameters
    ----------
    shape
        Everything that decides what is compiled.
    """
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[:16]
    done = folder / f"compiled-{digest}"
    if done.exists():
        yield
        return
    descriptor = os.open(folder / f"compiling-{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # The kernel lets go of it when the process ends, however it ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if done.exists():
            os.close(descriptor)
            descriptor = -1
        yield
        done.touch()
    finally:
        if descriptor >= 0:
            os.close(descriptor)
