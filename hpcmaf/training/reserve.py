"""A GPU's memory, taken before it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import torch

# Of what a job is reckoned to take and of what a GPU has, and in pieces of so many bytes, so that nobody waits long
# for PyTorch's lock.
_SHARE = 0.9
_PIECE = 1 << 30
# Of all of a GPU, for a model that takes at least so many bytes of it.
_EARLY_SHARE = 0.7
_LEAST = 4 << 30


@contextmanager
def reserving(wanted: int, device: torch.device) -> Iterator[None]:
    """Have PyTorch take, beside something else, the memory that it would take bit by bit in the first step.

    While it does, a GPU waits: 4 ms for each GB.

    Parameters
    ----------
    wanted
        Bytes that the job is reckoned to take of a GPU, with those that it has already. 0: nothing is done.
    """
    if device.type != "cuda" or not wanted:
        yield
        return

    most = _SHARE * min(wanted, torch.cuda.mem_get_info(device)[1])
    if torch.cuda.memory_reserved(device) > max(most, _LEAST):
        # More than it wants was taken before anybody knew.
        torch.cuda.empty_cache()
    thread = Thread(target=_take, args=(device, most), daemon=True)
    thread.start()
    yield
    thread.join()
    # What was taken has been given back to PyTorch, and was nothing that the job needs.
    torch.cuda.reset_peak_memory_stats(device)


def reserve_early(device: torch.device) -> None:
    """Take some before anybody knows what the job wants, while its process imports and nobody waits for PyTorch's lock.

    For a model of some size, whose job will fill the GPU; :func:`reserving` gives back what is too much.
    """
    if torch.cuda.memory_allocated(device) < _LEAST:
        return
    more = int(_EARLY_SHARE * torch.cuda.mem_get_info(device)[1]) - torch.cuda.memory_reserved(device)
    if more > 0:
        # At once, as between two pieces a thread waits for Python's lock.
        with suppress(torch.OutOfMemoryError):
            torch.empty(more, dtype=torch.uint8, device=device)
    torch.cuda.reset_peak_memory_stats(device)


def _take(device: torch.device, most: float) -> None:
    pieces: list[torch.Tensor] = []
    try:
        while torch.cuda.memory_reserved(device) + _PIECE <= most:
            pieces.append(torch.empty(_PIECE, dtype=torch.uint8, device=device))
    except torch.OutOfMemoryError:
        pass  # somebody else has it, and the job may take less than was reckoned
