"""How differently the agents of a society answer (paper, section on diversity).

Consensus needs no model and is in every ``metrics.json``; what needs one is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from hpcmaf.debate.methods import Society
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines.base import Engine, Request, Sampling, ServedModels
from hpcmaf.errors import EngineError, brief
from hpcmaf.evaluation.accuracy import DIVERSITY_SCHEMA, estimate
from hpcmaf.models.chat import ChatFormat

# At (j, i): log-likelihood, in nats, of each token of agent i's final response, in agent i's own chat, under agent j's
# model, or under agent i's untouched base where j is None. What could not be scored is left out.
Likelihoods = Mapping[tuple[int | None, int], Sequence[float]]


@dataclass(frozen=True, eq=False)
class Scorer:
    """A base that scores responses, and its agents' models (``served``) with it."""

    engine: Engine
    chat: ChatFormat
    served: ServedModels

    def scores(self, other: Scorer) -> bool:
        """Whether another base's tokens are tokens of this one."""
        return self is other or self.chat.tokenizer.get_vocab() == other.chat.tokenizer.get_vocab()


def scorer_of(model: str | None, scorers: Sequence[Scorer]) -> tuple[Scorer, str | None]:
    """The base of an agent's model, and the model's name there; ``None`` where the agent speaks with the base."""
    for one in scorers:
        if model in one.served.agents or model in one.served.copies:
            return one, model if model in one.served.agents else None
    return scorers[0], None


def measure(
    transcripts: Sequence[Transcript],
    served: Sequence[ServedModels],
    society: Society,
    *,
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
        The models that debated, base by base, and which agent has which.
    encoder
        Folder or hub id of a sentence encoder; ``None`` for the base model's own states.
    device
        ``auto``, ``cpu`` or ``cuda``.
    batch_size
        Responses that are scored at once.

    Returns
    -------
    dict
        The content of ``diversity.json``. ``measures``: each with its mean over problems, standard error, and how many
        problems had it (others had too few responses); ``null`` where none had. ``unscored``: responses without a
        token, or too long. ``other_vocabulary``: pairs of agents without likelihoods of each other's responses.
    """
    from hpcmaf.engines.transformers_engine import TransformersEngine

    engines = [TransformersEngine(one, device=device, batch_size=batch_size) for one in served]
    scorers = [Scorer(engine, engine.prompts.chat, one) for engine, one in zip(engines, served, strict=True)]
    try:
        found = asyncio.run(_score_all(transcripts, society, scorers))
    finally:
        for engine in engines:
            engine.close()
    texts, first = [turn.spoken for one in transcripts for turn in one.answers[one.ended - 1]], served[0]
    # A revision names a state of the base, not of another encoder.
    source = first.source | {"revision": None if encoder else first.revision}
    vectors = embed(texts, encoder or first.base, engines[0].device, dtype=first.dtype, **source)
    measures: dict[str, Iterable[float | None]] = {
        "embedding": map(dissimilarity, np.split(vectors, len(transcripts))),
        "nll": map(nll_under_others, found),
        "kl_agents": map(kl_between, found),
        "kl_base": map(kl_to_base, found),
    }
    pairs = combinations((scorer_of(name, scorers)[0] for name in society.critics), 2)
    apart = sum(not one.scores(other) for one, other in pairs)
    known = {name: [value for value in values if value is not None] for name, values in measures.items()}
    return {
        "schema": DIVERSITY_SCHEMA,
        "iteration": iteration,
        "problems": len(transcripts),
        "encoder": encoder,
        "unscored": sum(one.agents for one in transcripts) - sum(len(_scored(one)) for one in found),
        "measures": {name: {**estimate(some), "problems": len(some)} if some else None for name, some in known.items()},
    } | ({"other_vocabulary": apart} if apart else {})


# --- what agents' models think of each other's responses ---


async def _score_all(transcripts: Sequence[Transcript], society: Society, scorers: Sequence[Scorer]) -> Any:
    return await asyncio.gather(*(_score(one, society, scorers) for one in transcripts))


async def _score(transcript: Transcript, society: Society, scorers: Sequence[Scorer]) -> Likelihoods:
    """Score final responses under every agent of the last round with their vocabulary, and under their own base."""
    names = society.critics if transcript.ended > 1 else society.generators
    speakers = [scorer_of(name, scorers) for name in names[: transcript.agents]]
    judged: dict[tuple[int | None, int], tuple[Scorer, str | None, int]] = {}
    for i, (own, _) in enumerate(speakers):
        judged[None, i] = own, None, i
        judged |= {(j, i): (judge, model, i) for j, (judge, model) in enumerate(speakers) if judge.scores(own)}
    # Agents that share a model share the work.
    wanted = list(dict.fromkeys(judged.values()))
    scored = await asyncio.gather(*(response_likelihoods(transcript, i, model, judge) for judge, model, i in wanted))
    found = dict(zip(wanted, scored, strict=True))
    # Two tokenizers of one vocabulary may still split a text differently.
    lengths = {i: len(found[judged[i, i]]) for i in range(len(speakers))}
    return {(j, i): found[key] for (j, i), key in judged.items() if found[key] and len(found[key]) == lengths[i]}


async def response_likelihoods(transcript: Transcript, agent: int, model: str | None, judge: Scorer) -> Sequence[float]:
    """Log-likelihoods of a final response's tokens under a judge's model; none where it does not fit the context."""
    messages = tuple(transcript.conversation(agent, transcript.ended))
    key = f"{transcript.problem.id}/diversity/{agent}/{model}"
    completion = await judge.engine.complete(Request(key, messages, model, 0, Sampling(), logprobs=True))
    if completion.prompt_logprobs is None:
        return ()
    count = sum(judge.chat.sample(messages).target)
    tokens = completion.prompt_logprobs[len(completion.prompt_logprobs) - count :]
    # A response that ran out of room never said that it had ended.
    if transcript.answers[transcript.ended - 1][agent].finish_reason == "length":
        tokens = tokens[: count - len(judge.chat.end_of_turn)]
    return tuple(tokens)


def _scored(found: Likelihoods) -> list[int]:
    """Agents whose responses were scored."""
    return sorted({i for _, i in found})


def nll_under_others(found: Likelihoods) -> float | None:
    """Mean negative log-likelihood, in nats per token, of the others' responses under each agent in turn."""
    values = []
    for judge in _scored(found):
        tokens = [value for i in _scored(found) if i != judge for value in found.get((judge, i), ())]
        if tokens:
            values.append(-sum(tokens) / len(tokens))
    return sum(values) / len(values) if values else None


def kl_between(found: Likelihoods) -> float | None:
    """KL divergence between agents, per token: mean over ordered pairs.

    Estimated by the mean over an agent's own tokens of log p_own - log p_other, unbiased where tokens are drawn from
    p_own: compare values of one sampling only. May come out below zero.
    """
    return _divergence(found, [(i, j) for i in _scored(found) for j in _scored(found) if i != j])


def kl_to_base(found: Likelihoods) -> float | None:
    """KL divergence from each agent to the untouched base, per token, estimated as in :func:`kl_between`."""
    return _divergence(found, [(i, None) for i in _scored(found)])


def _divergence(found: Likelihoods, pairs: Sequence[tuple[int, int | None]]) -> float | None:
    gaps = [
        sum(own - other for own, other in zip(found[i, i], found[j, i], strict=True)) / len(found[i, i])
        for i, j in pairs
        if (j, i) in found
    ]
    return sum(gaps) / len(gaps) if gaps else None


# --- how far apart responses lie in an encoder's space ---


def dissimilarity(vectors: np.ndarray) -> float | None:
    """Mean over pairs of agents of 1 - cosine.

    Parameters
    ----------
    vectors
        One per agent, ``float[N, d]``; zero of a response without a token, which takes part in no pair.

    Returns
    -------
    float or None
        ``None`` with fewer than two responses left.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    units = vectors[lengths > 0] / lengths[lengths > 0, None]
    values = [1.0 - float(a @ b) for a, b in combinations(units, 2)]
    return sum(values) / len(values) if values else None


def embed(texts: Sequence[str], path: str, device: Any, *, dtype: str = "auto", **source: Any) -> np.ndarray:
    """Vectors of texts: the last hidden states of any transformers model, averaged over tokens.

    Of an encoder-decoder such as T5 (the paper's T5-3B) only the encoder is used. A causal model's own states work too,
    but point in similar directions: compare values of one encoder only.

    Parameters
    ----------
    path, source
        The model's folder or hub id, and keyword arguments of ``from_pretrained``, such as ``revision``.

    Returns
    -------
    numpy.ndarray
        ``float32[len(texts), d]``, zero for a text without a word; longer ones are cut at the encoder's limit.

    Raises
    ------
    EngineError
        The model cannot be loaded.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        model = AutoModel.from_pretrained(path, dtype=dtype, **source)
    except Exception as error:  # whatever the many kinds of models raise
        raise EngineError(f"encoder {path}: cannot be loaded ({brief(error)}); check --encoder") from error
    model = (model.get_encoder() if model.config.is_encoder_decoder else model).to(device).eval()
    longest = min(getattr(model.config, "max_position_embeddings", None) or 2**20, tokenizer.model_max_length)
    vectors = np.zeros((len(texts), model.config.get_text_config().hidden_size), np.float32)
    for row, text in enumerate(texts):
        plain = text.encode("utf-8", "replace").decode()
        ids = tokenizer(plain, truncation=True, max_length=longest, return_tensors="pt")["input_ids"].to(device)
        if plain.strip() and ids.numel():
            with torch.inference_mode():
                vectors[row] = model(input_ids=ids).last_hidden_state[0].float().mean(0).cpu().numpy()
    return vectors
