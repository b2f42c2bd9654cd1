"""Files in the system's cache before somebody loads them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Bytes that are read where the last of them is not there.
_CHUNK = 1 << 20


def read_missing(files: Iterable[Path]) -> None:
    """Read what of some files is not in the cache, and throw it away; a file that cannot be read ends it."""
    # Read and thrown away: of POSIX_FADV_WILLNEED Linux heeds a few MB a call, file systems differ in how many.
    buffer = bytearray(_CHUNK)
    for file in files:
        try:
            with file.open("rb", buffering=0) as opened:
                size = file.stat().st_size
                for at in range(0, size, _CHUNK):
                    # The last byte, as the first ones come with what was read before.
                    if not _cached(opened.fileno(), min(at + _CHUNK, size) - 1):
                        os.preadv(opened.fileno(), [buffer], at)
        except OSError:
            return


def _cached(descriptor: int, at: int) -> bool:
    """Whether a byte of a file is at hand; ``False`` where a system cannot tell.

    Copying what is there already would take memory's time from the job, which is about to copy it to its GPU.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT) > 0
    except OSError:  # it would have to wait, or the file system has no such reads
        return False
