"""Weights are in memory by the time somebody loads them."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpcmaf.training.readahead import read_ahead
from hpcmaf.training.spec import FinetuneJob

JOB = FinetuneJob(base="b", dataset="d", output="o")
SIZE = 16 << 20


def resident(path: Path) -> float:
    """Share of a file's pages that are in memory."""
    pages = -(-path.stat().st_size // mmap.PAGESIZE)
    told = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        address = np.frombuffer(mapped, dtype=np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        code = libc.mincore(ctypes.c_void_p(address.ctypes.data), ctypes.c_size_t(len(address)), told)
        assert code == 0, os.strerror(ctypes.get_errno())
        del address
    return sum(page & 1 for page in told) / pages


def evict(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def checkpoint(folder: Path) -> list[Path]:
    folder.mkdir()
    files = [folder / f"model-{part}.safetensors" for part in (1, 2)]
    for file in files:
        file.write_bytes(os.urandom(SIZE))
        evict(file)
    return files


def all_there(files: list[Path]) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if all(resident(file) == 1 for file in files):
            return True
        time.sleep(0.05)
    return False


def test_what_is_loaded_whole_is_read_ahead(tmp_path):
    base, start = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "start")
    job = replace(JOB, base=str(tmp_path / "base"), start=str(tmp_path / "start"))
    before = [resident(file) for file in start]
    reading = read_ahead(job)
    assert reading is not None
    reading.join()
    # With LoRA the model before is but an adapter.
    assert all_there(base) and [resident(file) for file in start] == before
    reading = read_ahead(replace(job, tuning="full"))
    assert reading is not None
    reading.join()
    assert all_there(start)


def test_nothing_to_read_is_no_matter(tmp_path):
    assert read_ahead(replace(JOB, base="somebody/model-8b")) is None
    assert read_ahead(replace(JOB, base=str(tmp_path))) is None
