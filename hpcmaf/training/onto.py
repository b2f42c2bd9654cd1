"""Safetensors from the page cache, or the disk, onto a GPU.

safetensors maps a file and copies tensor by tensor: one thread takes a page
fault for every 4 kB, and mapping and unmapping 16 GB hold Python's lock for a
second, in which nothing is imported. Here some threads read into memory that
the GPU copies from by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch

# Bytes of a read, and threads: 256 MB of pinned memory, which takes 0.1 s to get.
_CHUNK = 64 << 20
_THREADS = 4
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
class _Piece:
    """So many bytes of a file, and where they go."""

    file: Path
    begin: int
    target: torch.Tensor


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
    pieces = (piece for file in files for piece in _pieces(file, device, tensors))
    lock, cuda = Lock(), device.type == "cuda"

    def following() -> _Piece | None:
        with lock:
            return next(pieces, None)

    def work() -> None:
        # A thread's own GPU is the first one otherwise, which would get a context for nothing.
        with torch.cuda.device(device) if cuda else nullcontext():
            buffer = torch.empty(_CHUNK, dtype=torch.uint8, pin_memory=cuda)
            room, stream = memoryview(buffer.numpy()), torch.cuda.Stream() if cuda else None
            while (piece := following()) is not None:
                size = piece.target.numel()
                _fill(room[:size], piece)
                with torch.cuda.stream(stream):
                    piece.target.copy_(buffer[:size], non_blocking=True)
                if stream is not None:
                    stream.synchronize()

    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(work) for _ in range(_THREADS)]:
            done.result()
    return tensors


def _pieces(file: Path, device: torch.device, tensors: dict[str, torch.Tensor]) -> Iterator[_Piece]:
    """A file's tensors, made, and what is to be read into them."""
    # The format: a header's length in 8 bytes, the header in JSON, and bytes (safetensors' README).
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        size = os.fstat(opened.fileno()).st_size
        if length > size - 8:
            raise ValueError(f"{file}: no safetensors file")
        header = json.loads(opened.read(length))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{file}: {name} is of type {entry['dtype']}")
        tensors[name] = torch.empty(entry["shape"], dtype=dtype, device=device)
        flat = tensors[name].reshape(-1).view(torch.uint8)
        if len(flat) != end - begin or 8 + length + end > size:
            raise ValueError(f"{file}: {name} has {end - begin} bytes of {len(flat)}")
        for at in range(0, len(flat), _CHUNK):
            yield _Piece(file, 8 + length + begin + at, flat[at : at + _CHUNK])


def _fill(room: memoryview, piece: _Piece) -> None:
    descriptor = os.open(piece.file, os.O_RDONLY)
    try:
        done = 0
        while done < len(room):
            got = os.preadv(descriptor, [room[done:]], piece.begin + done)
            if got == 0:
                raise OSError(f"{piece.file}: ends too early")
            done += got
    finally:
        os.close(descriptor)
