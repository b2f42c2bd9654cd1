"""How differently the agents of a society answer (paper, section on diversity).

Consensus needs no model and is in every ``metrics.json``; what needs one is
here, computed on a sample of the evaluation debates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.society import Society
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines.base import Engine, Request, Sampling, ServedModels
from hpcmaf.engines.chat import ChatFormat
from hpcmaf.errors import EngineError
from hpcmaf.evaluation.measures import DIVERSITY_SCHEMA
from hpcmaf.evaluation.spread import estimate
from hpcmaf.seeding import derive_seed
from hpcmaf.store import Store

# Log-likelihoods of a response's tokens, in nats.
Tokens = Sequence[float]


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
    *,
    seed: int,
    iteration: int,
    encoder: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
) -> dict[str, Any]:
    """Measure the diversity of final responses.

    Parameters
    ----------
    transcripts
        At least one, of N agents each.
    served, society
        The models that debated, and which agent has which.
    seed, iteration
        Of the run; they decide tied votes.
    encoder
        Folder or hub id of a sentence encoder; ``None`` for the base model's
        own states.
    device
        ``auto``, ``cpu`` or ``cuda``.
    batch_size
        Responses in memory at once.

    Returns
    -------
    dict
        The content of ``diversity.json``. ``measures``: each with its mean
        over problems, standard error, and how many problems had it (others
        had too few responses); ``null`` where none had. ``unscored``:
        responses too long to be scored.
    """
    from hpcmaf.engines.transformers_engine import TransformersEngine

    engine = TransformersEngine(served, device=device, batch_size=batch_size)
    try:
        found = asyncio.run(score_all(transcripts, society, engine, engine.prompts.chat))
    finally:
        engine.close()
    states = Encoder(
        encoder or served.base,
        engine.device,
        dtype=served.dtype,
        # It names a state of the base, not of another encoder.
        revision=None if encoder else served.revision,
        trust_remote_code=served.trust_remote_code,
    )
    texts = [turn.spoken for one in transcripts for turn in one.answers[-1]]
    vectors = states.encode(texts, batch_size).reshape(len(transcripts), transcripts[0].agents, -1)
    votes = [consensus(one, one.rounds, seed, iteration) for one in transcripts]
    measures = {
        "embedding": map(dissimilarity, vectors),
        "embedding_matching": (dissimilarity(v, vote.agrees) for v, vote in zip(vectors, votes, strict=True)),
        "nll": map(held_out_nll, found),
        "kl_agents": map(kl_between, found),
        "kl_base": map(kl_to_base, found),
    }
    return {
        "schema": DIVERSITY_SCHEMA,
        "iteration": iteration,
        "problems": len(transcripts),
        "encoder": encoder,
        "unscored": sum(one.agents for one in transcripts) - sum(len(one.base) for one in found),
        "measures": {name: _mean(values) for name, values in measures.items()},
    }


def _mean(values: Iterable[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    return {**estimate(known), "problems": len(known)} if known else None


# --- what agents' models think of each other's responses ---


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """One problem's final responses under every agent's model and the base.

    Attributes
    ----------
    agents
        ``agents[j, i]``: log-likelihood of each token of agent i's response,
        in agent i's own chat, under agent j's model. A response that no agent
        could score is left out.
    base
        ``base[i]``: the same under the untouched base.
    """

    agents: Mapping[tuple[int, int], Tokens]
    base: Mapping[int, Tokens]

    @property
    def scored(self) -> list[int]:
        """Agents whose responses were scored and have a token."""
        return sorted(i for i, tokens in self.base.items() if tokens)


async def score_all(
    transcripts: Sequence[Transcript], society: Society, engine: Engine, chat: ChatFormat
) -> list[Likelihoods]:
    """Score every final response under every agent of the last round, and under the base.

    Agents that share a model share the work: before the first iteration there
    is one model, and each response is scored once.
    """
    return list(await asyncio.gather(*(_score(one, society, engine, chat) for one in transcripts)))


async def _score(transcript: Transcript, society: Society, engine: Engine, chat: ChatFormat) -> Likelihoods:
    models_of = society.critics if transcript.rounds > 1 else society.generators
    models = sorted({None, *models_of}, key=str)
    wanted = [(model, i) for i in range(transcript.agents) for model in models]
    scored = await asyncio.gather(*(_tokens(transcript, i, model, engine, chat) for model, i in wanted))
    found = {key: tokens for key, tokens in zip(wanted, scored, strict=True) if tokens is not None}
    agents = {
        (j, i): found[model, i]
        for j, model in enumerate(models_of)
        for i in range(transcript.agents)
        if (model, i) in found
    }
    return Likelihoods(agents, {i: tokens for (model, i), tokens in found.items() if model is None})


async def _tokens(
    transcript: Transcript, agent: int, model: str | None, engine: Engine, chat: ChatFormat
) -> tuple[float, ...] | None:
    """Log-likelihoods of a final response's tokens; ``None`` where it does not fit the context."""
    messages = tuple(transcript.conversation(agent, transcript.rounds))
    key = f"{transcript.problem.id}/diversity/{agent}/{model}"
    completion = await engine.complete(Request(key, messages, model, 0, Sampling(), logprobs=True))
    if completion.prompt_logprobs is None:
        return None
    count = sum(chat.sample(messages).target)
    tokens = completion.prompt_logprobs[len(completion.prompt_logprobs) - count :]
    # A response that ran out of room never said that it had ended.
    if transcript.answers[-1][agent].finish_reason == "length":
        tokens = tokens[: count - len(chat.end_of_turn)]
    return tuple(tokens)


def held_out_nll(found: Likelihoods) -> float | None:
    """Mean negative log-likelihood, per token, of the others' responses under a held-out agent.

    Averaged over which agent is held out (paper: NLL under a held-out
    critic). In nats per token.
    """
    values = []
    for held_out in found.scored:
        tokens = [value for i in found.scored if i != held_out for value in found.agents[held_out, i]]
        if tokens:
            values.append(-sum(tokens) / len(tokens))
    return sum(values) / len(values) if values else None


def kl_between(found: Likelihoods) -> float | None:
    """KL divergence between agents, per token: mean over ordered pairs.

    Estimated on the responses: the mean over an agent's own tokens of
    log p_own - log p_other. Unbiased where tokens are drawn from p_own; with
    top-p below 1 or another temperature they are not quite, so compare
    values of one sampling only. May come out below zero.
    """
    values = [_gap(found.agents[i, i], found.agents[j, i]) for i in found.scored for j in found.scored if i != j]
    return sum(values) / len(values) if values else None


def kl_to_base(found: Likelihoods) -> float | None:
    """KL divergence from each agent to the untouched base, per token, estimated as in :func:`kl_between`."""
    values = [_gap(found.agents[i, i], found.base[i]) for i in found.scored]
    return sum(values) / len(values) if values else None


def _gap(own: Tokens, other: Tokens) -> float:
    return sum(a - b for a, b in zip(own, other, strict=True)) / len(own)


# --- how far apart responses lie in an encoder's space ---


def dissimilarity(vectors: np.ndarray, chosen: Sequence[bool] | None = None) -> float | None:
    """Mean over pairs of agents of 1 - cosine.

    Parameters
    ----------
    vectors
        One per agent, ``float[N, d]``. A response without a token has no
        direction: its vector is zero, and it takes part in no pair.
    chosen
        Which agents to count; all without it.

    Returns
    -------
    float or None
        ``None`` with fewer than two responses left.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    rows = [n for n in range(len(vectors)) if lengths[n] > 0 and (chosen is None or chosen[n])]
    if len(rows) < 2:
        return None
    units = vectors[rows] / lengths[rows, None]
    values = [1.0 - float(units[a] @ units[b]) for a, b in combinations(range(len(rows)), 2)]
    return sum(values) / len(values)


class Encoder:
    """Any transformers model, as an encoder of texts: its last hidden states, averaged over tokens.

    Of an encoder-decoder such as T5 (the paper's T5-3B) only the encoder is
    used. A causal model's own states work too, but point in similar
    directions: compare values of one encoder only.

    Parameters
    ----------
    path
        Folder or hub id.
    device
        As torch names it.
    revision
        Of a hub id: branch, tag or commit.

    Raises
    ------
    EngineError
        It cannot be loaded.
    """

    def __init__(
        self,
        path: str,
        device: Any,
        *,
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            source = {"revision": revision, "trust_remote_code": trust_remote_code}
            self.tokenizer = AutoTokenizer.from_pretrained(path, **source)
            model = AutoModel.from_pretrained(path, dtype=dtype, **source)
        except Exception as error:  # whatever the many kinds of models raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineError(f"encoder {path}: cannot be loaded ({reason}); check --encoder") from error
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self.model = model.to(device).eval()
        self.device = device
        if self.tokenizer.pad_token_id is None:
            # Padding is masked; any token will do.
            self.tokenizer.pad_token = self.tokenizer.eos_token
        limit = getattr(self.model.config, "max_position_embeddings", None) or 2**20
        self.longest = min(limit, self.tokenizer.model_max_length)

    def encode(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """Vectors of texts, ``float32[len(texts), d]``; longer ones are cut at the encoder's limit."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: dict[int, np.ndarray] = {}
        width = self.model.config.get_text_config().hidden_size
        for low in range(0, len(order), batch_size):
            rows = order[low : low + batch_size]
            # Tokens of the text alone where a text is empty: nothing to average.
            plain = [texts[i].encode("utf-8", "replace").decode() for i in rows]
            batch = self.tokenizer(plain, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
            if batch["input_ids"].shape[1] == 0:
                vectors |= {i: np.zeros(width, np.float32) for i in rows}
                continue
            mask = batch["attention_mask"].to(self.device)
            with torch.inference_mode():
                states = self.model(
                    input_ids=batch["input_ids"].to(self.device), attention_mask=mask
                ).last_hidden_state.float()
            weights = mask[..., None].float()
            pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
            for row, vector, text in zip(rows, pooled.cpu().numpy(), plain, strict=True):
                vectors[row] = vector if text.strip() else np.zeros_like(vector)
        return np.stack([vectors[i] for i in range(len(texts))])
