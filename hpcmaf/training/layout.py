"""What lies where in a safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

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
class Entry:
    """A tensor's place in a file, in bytes from its begin."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def make(self, device: torch.device) -> torch.Tensor:
        """Room for it."""
        return torch.empty(self.shape, dtype=self.dtype, device=device)

    def of(self, content: torch.Tensor) -> torch.Tensor:
        """Its bytes, ``uint8[end - begin]``, as what they are."""
        return content.view(self.dtype).view(self.shape)


def stored(file: Path) -> list[Entry]:
    """The tensors of a file, which lie one after another.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no safetensors file, ends too early, or has tensors of a type that is not known here.
    """
    # The format: a header's length in 8 bytes, the header in JSON, and bytes (safetensors' README).
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        size = os.fstat(opened.fileno()).st_size
        if length > size - 8:
            raise ValueError(f"{file}: no safetensors file")
        header = json.loads(opened.read(length))
    try:
        entries = [
            (*map(int, entry["data_offsets"]), name, entry["dtype"], tuple(map(int, entry["shape"])))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: no safetensors file") from error
    found = []
    end = 8 + length
    for first, last, name, kind, shape in sorted(entries):
        if kind not in _DTYPES:
            raise ValueError(f"{file}: {name} is of type {kind}")
        wide = _DTYPES[kind].itemsize
        for side in shape:
            wide *= side
        if wide != last - first or 8 + length + last > size or 8 + length + first != end:
            raise ValueError(f"{file}: {name} does not lie where its size and the tensor before it say")
        end = 8 + length + last
        found.append(Entry(name, _DTYPES[kind], shape, 8 + length + first, end))
    return found


def cut(content: torch.Tensor, entries: Sequence[Entry]) -> list[torch.Tensor]:
    """Each tensor's bytes out of a file's, ``uint8[size]``, in memory of its own; one operation for all."""
    bounds = [0, *[entry.begin for entry in entries[:1]], *[entry.end for entry in entries], len(content)]
    _, *parts = torch.split_with_sizes_copy(content, [end - begin for begin, end in pairwise(bounds)])
    return parts[: len(entries)]
