"""Compiled modules are kept, also where Python may not or must not put them beside their sources.

Container images often set ``PYTHONDONTWRITEBYTECODE``, and the packages of a
module system or of an image belong to somebody else. Unless whoever installed
them compiled them, every process there compiles all it imports: for torch,
transformers and DeepSpeed that is ten seconds instead of three, in every job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from hpcmaf.usercache import user_cache

# Imported by every job, and big enough for it to matter.
_BIG = ("torch", "transformers")


def nowhere_to_keep() -> str | None:
    """Why Python would compile the big packages in every process; ``None`` if it would not."""
    if sys.pycache_prefix is not None:
        return None
    for name in _BIG:
        try:
            spec = find_spec(name)  # finds, without importing
        except ValueError:  # loaded by something that left no trace of where from
            continue
        if spec is None or spec.origin is None:
            continue
        kept = Path(cache_from_source(spec.origin))
        if kept.exists():
            continue
        if sys.dont_write_bytecode or os.environ.get("PYTHONDONTWRITEBYTECODE"):
            return "PYTHONDONTWRITEBYTECODE is set"
        folder = kept.parent if kept.parent.is_dir() else kept.parent.parent
        if not os.access(folder, os.W_OK):
            return f"{folder} takes no .pyc files"
    return None


def keep_bytecode(environment: MutableMapping[str, str]) -> None:
    """Let processes with this environment keep what they compile in the user's cache, if they could not otherwise.

    Given ``os.environ``, this process does so too from here on.
    """
    if nowhere_to_keep() is None:
        return
    try:
        environment["PYTHONPYCACHEPREFIX"] = str(user_cache("bytecode"))
    except OSError:  # nowhere at all: slower, and no reason to fail
        return
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if environment is os.environ:
        sys.pycache_prefix, sys.dont_write_bytecode = environment["PYTHONPYCACHEPREFIX"], False
