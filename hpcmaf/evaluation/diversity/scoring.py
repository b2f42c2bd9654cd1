"""Asking an engine for the log-likelihoods of a debate's final responses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hpcmaf.debate.society import Society
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines.base import Engine, Request, Sampling
from hpcmaf.engines.chat import ChatFormat
from hpcmaf.evaluation.diversity.likelihood import Likelihoods


async def score_all(
    transcripts: Sequence[Transcript], society: Society, engine: Engine, chat: ChatFormat
) -> list[Likelihoods]:
    """Score every final response under every agent of the last round, and under the base.

    Agents that share a model share the work: before the first iteration there
    is one model, and each response is scored once.
    """
    return list(await asyncio.gather(*(_score(one, society, engine, chat) for one in transcripts)))


async def _score(transcript: Transcript, society: Society, engine: Engine, chat: ChatFormat) -> Likelihoods:
    seats = society.critics if transcript.rounds > 1 else society.generators
    models = sorted({None, *seats}, key=str)
    wanted = [(model, i) for i in range(transcript.agents) for model in models]
    scored = await asyncio.gather(*(_tokens(transcript, i, model, engine, chat) for model, i in wanted))
    found = {key: tokens for key, tokens in zip(wanted, scored, strict=True) if tokens is not None}
    agents = {
        (j, i): found[model, i]
        for j, model in enumerate(seats)
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
