"""A checkpoint on its way from the disk while a job's processes import what they need."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

from hpcmaf.training.spec import FinetuneJob

_CHUNK = 8 << 20


def read_ahead(job: FinetuneJob) -> Thread | None:
    """Have a job's weights in the system's cache soon, and do not wait for them.

    Imports take as long as 16 GB from a local disk, so a job that begins to
    read after them takes twice as long to its first step as it has to.

    Returns
    -------
    Thread or None
        What reads; ``None`` where there is nothing to read: the weights are no
        local files, or more than half of the machine's memory.
    """
    folder = Path(job.start if job.tuning == "full" and job.start else job.base)
    try:
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
    except OSError:  # whoever loads it has the words for that
        return None
    if not files or size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
        return None
    reading = Thread(target=_read, args=(files,), daemon=True)
    reading.start()
    return reading


def _read(files: list[Path]) -> None:
    # Read and thrown away: of POSIX_FADV_WILLNEED Linux heeds a few MB a call, file systems differ in how many.
    buffer = bytearray(_CHUNK)
    for file in files:
        try:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass
        except OSError:
            return
