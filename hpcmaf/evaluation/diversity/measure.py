"""Every measure of diversity that needs a model, on a sample of one iteration's evaluation debates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.society import Society
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines.base import ServedModels
from hpcmaf.evaluation.diversity.embedding import Encoder, dissimilarity
from hpcmaf.evaluation.diversity.likelihood import held_out_nll, kl_between, kl_to_base
from hpcmaf.evaluation.diversity.scoring import score_all
from hpcmaf.evaluation.spread import estimate_shares
from hpcmaf.seeding import derive_seed
from hpcmaf.store import Store

SCHEMA = "hpcmaf-diversity/1"
_LIKELIHOODS = {"nll": held_out_nll, "kl_agents": kl_between, "kl_base": kl_to_base}


@dataclass(frozen=True, slots=True)
class Means:
    """What to measure with.

    Attributes
    ----------
    encoder
        Folder or hub id; ``None`` for the base model's own states.
    device
        ``auto``, ``cpu`` or ``cuda``.
    batch_size
        Responses in memory at once.
    """

    encoder: str | None = None
    device: str = "auto"
    batch_size: int = 32


def sample(store: Path, problems: int) -> list[Transcript]:
    """Debates of a store, without their gold answers.

    Which ones depends on the problems' ids alone, so iterations and methods
    are measured on the same.
    """
    with Store(store) as opened:
        ids = sorted(opened.problem_ids, key=lambda problem: (derive_seed(0, problem, "diversity"), problem))[:problems]
        return [opened.find(problem) for problem in ids]


def measure(
    transcripts: Sequence[Transcript],
    served: ServedModels,
    society: Society,
    means: Means,
    *,
    seed: int,
    iteration: int,
) -> dict[str, Any]:
    """Measure the diversity of final responses.

    Parameters
    ----------
    transcripts
        At least one, of N agents each.
    served, society
        The models that held the debates, and who spoke with which.
    seed, iteration
        Of the run; they decide tied votes.

    Returns
    -------
    dict
        The content of ``diversity.json``. ``measures``: each with its mean
        over problems, standard error, and how many problems had it (others
        had too few responses); ``null`` where none had. ``unscored``:
        responses too long to be scored.
    """
    from hpcmaf.engines.transformers_engine import TransformersEngine

    engine = TransformersEngine(served, device=means.device, batch_size=means.batch_size)
    try:
        found = asyncio.run(score_all(transcripts, society, engine, engine.prompts.chat))
        device = engine.device
    finally:
        engine.close()
    encoder = Encoder(
        means.encoder or served.base,
        device,
        dtype=served.dtype,
        # It names a state of the base, not of another encoder.
        revision=None if means.encoder else served.revision,
        trust_remote_code=served.trust_remote_code,
    )
    texts = [turn.spoken for one in transcripts for turn in one.answers[-1]]
    vectors = encoder.encode(texts, means.batch_size).reshape(len(transcripts), transcripts[0].agents, -1)
    votes = [consensus(one, one.rounds, seed, iteration) for one in transcripts]
    measures = {
        "embedding": _estimate(map(dissimilarity, vectors)),
        "embedding_matching": _estimate(dissimilarity(v, vote.agrees) for v, vote in zip(vectors, votes, strict=True)),
    } | {name: _estimate(map(function, found)) for name, function in _LIKELIHOODS.items()}
    return {
        "schema": SCHEMA,
        "iteration": iteration,
        "problems": len(transcripts),
        "encoder": means.encoder,
        "unscored": sum(one.agents for one in transcripts) - sum(len(one.base) for one in found),
        "measures": measures,
    }


def _estimate(values: Iterable[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    return {**estimate_shares(known), "problems": len(known)} if known else None
