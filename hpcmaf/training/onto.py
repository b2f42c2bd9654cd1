"""Safetensors from the page cache, or the disk, onto a GPU.

safetensors maps a file and copies tensor by tensor: one thread takes a page
fault for every 4 kB, and mapping and unmapping 16 GB hold Python's lock for a
second, in which nothing is imported. Here some threads read into memory that
the GPU copies from by itself.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from hpcmaf.cores import usable_cores

# Bytes of a read, and at most so many threads, each with pinned memory for one. Pinning takes time, and between reads
# a thread wants Python's lock: see results/bench.
_CHUNK = 32 << 20
_THREADS = 6
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


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
                    _fill(room[: read.size], read)
                    at = 0
                    for target in read.targets:
                        target.copy_(buffer[at : at + len(target)], non_blocking=True)
                        at += len(target)
                    if stream is not None:
                        stream.synchronize()

    largest = max((read.size for read in waiting), default=0)
    count = min(_threads(), len(waiting))
    with ThreadPoolExecutor(max(1, count)) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()
    return tensors


def _threads() -> int:
    """Half of this process's share of the cores, for those that import meanwhile."""
    cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_THREADS, cores // 2))


def _reads(file: Path, device: torch.device, tensors: dict[str, torch.Tensor]) -> Iterator[_Read]:
    """What is to be read of a file, into tensors made here."""
    # The format: a header's length in 8 bytes, the header in JSON, and bytes (safetensors' README).
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        size = os.fstat(opened.fileno()).st_size
        if length > size - 8:
            raise ValueError(f"{file}: no safetensors file")
        header = json.loads(opened.read(length))
    try:
        entries = [
            (*map(int, entry["data_offsets"]), name, entry["dtype"], list(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: no safetensors file") from error
    together: list[torch.Tensor] = []
    begin = end = 8 + length
    for first, last, name, kind, shape in sorted(entries):
        if kind not in _DTYPES:
            raise ValueError(f"{file}: {name} is of type {kind}")
        tensors[name] = torch.empty(shape, dtype=_DTYPES[kind], device=device)
        flat = tensors[name].reshape(-1).view(torch.uint8)
        if len(flat) != last - first or 8 + length + last > size or 8 + length + first != end:
            raise ValueError(f"{file}: {name} does not lie where its size and the tensor before it say")
        end = 8 + length + last
        for part in flat.split(_CHUNK):
            if together and sum(map(len, together)) + len(part) > _CHUNK:
                yield _Read(file, begin, tuple(together))
                begin, together = begin + sum(map(len, together)), []
            together.append(part)
    if together:
        yield _Read(file, begin, tuple(together))


def _fill(room: memoryview, read: _Read) -> None:
    descriptor = os.open(read.file, os.O_RDONLY)
    try:
        done = 0
        while done < len(room):
            got = os.preadv(descriptor, [room[done:]], read.begin + done)
            if got == 0:
                raise OSError(f"{read.file}: ends too early")
            done += got
    finally:
        os.close(descriptor)
