"""Seeds that depend on what is drawn and on nothing else.

A seed never depends on shard, batch, order or machine: that is what makes a run repeatable after a kill, and a vote's
tie-break independent of how the work was cut up.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from a sequence of names and numbers.

    Parameters
    ----------
    *parts
        What the draw belongs to, e.g. ``(run_seed, iteration, problem_id,
        round, agent, "answer")``. ``1`` and ``"1"`` are different parts.

    Returns
    -------
    int
        In ``[0, 2**63)``; stable across processes, machines and versions.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
