"""Samples into full sequences: which texts share one forward pass.

Packed texts lie end to end in one row, positions restart with each, and
attention stays inside them (:mod:`hpcmaf.training.attention`), so that nothing
is computed for padding and short texts fill a GPU as long ones do. Imports
nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpcmaf.training.data import TokenSample


def pack(batch: Sequence[TokenSample], *, processes: int, capacity: int) -> list[list[TokenSample]]:
    """Spread a global batch over as few forward passes as hold it, all about equally long.

    A step lasts as long as the process with most to do, so the number of
    passes is a multiple of the processes wherever there are samples for it.

    Parameters
    ----------
    batch
        None longer than ``capacity``.
    capacity
        Tokens of one pass, at most.

    Returns
    -------
    list of list
        Every sample once. Fewer samples than processes make fewer passes.
    """
    ordered = sorted(batch, key=lambda sample: len(sample.input_ids), reverse=True)
    total = sum(len(sample.input_ids) for sample in ordered)
    passes = -(-max(1, -(-total // capacity)) // processes) * processes
    while True:
        bins: list[list[TokenSample]] = [[] for _ in range(min(passes, len(ordered)))]
        loads = [0] * len(bins)
        for sample in ordered:
            # Longest first onto the emptiest: within a sample's length of equal.
            emptiest = loads.index(min(loads))
            bins[emptiest].append(sample)
            loads[emptiest] += len(sample.input_ids)
        if max(loads) <= capacity or passes >= len(ordered):
            return bins
        passes += processes


def share_packed(
    batch: Sequence[TokenSample], *, rank: int, processes: int, capacity: int
) -> list[Sequence[TokenSample]]:
    """One process's packed micro-batches; all processes get equally many, as in :func:`hpcmaf.training.data.share`."""
    bins = pack(batch, processes=processes, capacity=capacity)
    rounds = -(-len(bins) // processes)
    mine: list[Sequence[TokenSample]] = list(bins[rank::processes])
    return mine + [[]] * (rounds - len(mine))
