"""Safetensors from the page cache, or the disk, onto a GPU.

safetensors maps a file and copies tensor by tensor: one thread takes a page
fault for every 4 kB, and mapping and unmapping 16 GB hold Python's lock for a
second, in which nothing is imported. Here some threads read into memory that
the GPU copies from by itself. They hold imports up too, so this is for GPUs
that let no other process do it (:mod:`hpcmaf.training.reader`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from hpcmaf.training.layout import stored
from hpcmaf.training.reader import fill, threads

# Bytes of a read, for which each thread has pinned memory. Pinning takes time, and between reads a thread wants
# Python's lock: see results/bench.
_CHUNK = 32 << 20


@dataclass(frozen=True, slots=True)
class _Read:
    """Bytes that lie together in a file, and where they go, one after another."""

    file: Path
    begin: int
    targets: tuple[torch.Tensor, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.targets))


def read_onto(files: list[Path], device: torch.device) -> dict[str, torch.Tensor]:
    """All tensors of some safetensors files, on a device.

    Raises
    ------
    OSError
        A file cannot be read, or ends too early.
    ValueError
        It is no safetensors file, or has tensors of a type that is not known here.
    RuntimeError
        What CUDA says.
    """
    tensors: dict[str, torch.Tensor] = {}
    cuda, waiting = device.type == "cuda", deque(read for file in files for read in _reads(file, device, tensors))

    def work() -> None:
        # A thread's own GPU is the first one otherwise, which would get a context for nothing.
        with torch.cuda.device(device) if cuda else nullcontext():
            buffer = torch.empty(min(_CHUNK, largest), dtype=torch.uint8, pin_memory=cuda)
            room, stream = memoryview(buffer.numpy()), torch.cuda.Stream() if cuda else None
            if stream is not None:
                # The memory of these tensors may have been others', and kernels given before be at them yet.
                stream.wait_stream(torch.cuda.default_stream())
            with torch.cuda.stream(stream):
                while waiting:
                    try:
                        read = waiting.popleft()
                    except IndexError:  # another one was quicker
                        return
                    fill(room[: read.size], read.file, read.begin)
                    at = 0
                    for target in read.targets:
                        target.copy_(buffer[at : at + len(target)], non_blocking=True)
                        at += len(target)
                    if stream is not None:
                        stream.synchronize()

    largest = max((read.size for read in waiting), default=0)
    count = min(threads(), len(waiting))
    with ThreadPoolExecutor(max(1, count)) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()
    return tensors


def _reads(file: Path, device: torch.device, tensors: dict[str, torch.Tensor]) -> Iterator[_Read]:
    """What is to be read of a file, into tensors made here."""
    together: list[torch.Tensor] = []
    begin = 0
    for entry in stored(file):
        tensors[entry.name] = entry.make(device)
        if not together:
            begin = entry.begin
        for part in tensors[entry.name].reshape(-1).view(torch.uint8).split(_CHUNK):
            if together and sum(map(len, together)) + len(part) > _CHUNK:
                yield _Read(file, begin, tuple(together))
                begin, together = begin + sum(map(len, together)), []
            together.append(part)
    if together:
        yield _Read(file, begin, tuple(together))
