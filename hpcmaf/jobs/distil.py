"""On-policy data of method ``distil``: the student's own answers, weighted by its society."""

from __future__ import annotations

import asyncio
import json
from asyncio import gather
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

from hpcmaf.debate.methods import SINGLE, Society
from hpcmaf.debate.protocol import Protocol, respond
from hpcmaf.debate.transcript import Transcript, Utterance, assistant, user
from hpcmaf.engines.journal import Journal
from hpcmaf.evaluation.diversity import Scorer, response_likelihoods, scorer_of
from hpcmaf.files.publish import write_text
from hpcmaf.jobs.context import TaskContext
from hpcmaf.jobs.debate import Watch, protocol_of
from hpcmaf.jobs.serving import served_models, society_of
from hpcmaf.seeding import derive_seed
from hpcmaf.selection.balance import likelihood_weights
from hpcmaf.store.reader import Store


def on_policy_data(context: TaskContext, *, goes_on: bool) -> Path:
    """Write the training set of a student that learns from itself; what an earlier attempt wrote stands.

    ``selection.on_policy`` answers to each training problem are drawn from
    the student as it starts (the base unless it ``goes_on``). Every agent
    scores each of them as its own last answer, behind all that it had read in
    the debate: by the mean log-likelihood of a token, averaged over agents.
    :func:`hpcmaf.selection.balance.likelihood_weights` has what follows. Cut
    off and unreadable answers are left out.
    """
    from hpcmaf.engines.transformers_engine import TransformersEngine

    recipe, t, profile = context.recipe, context.iteration, context.profile
    data = context.run.data(t) / f"{SINGLE}-own.jsonl"
    if data.exists():
        return data
    with Store(context.run.store(t, "debate")) as store:
        debates = list(store.transcripts())
    agents, count = debates[0].agents, recipe.selection.on_policy
    served = served_models(context.run, recipe, t - 1)
    society = society_of(recipe, served, evaluating=False)
    protocol = protocol_of(recipe, t, evaluating=False)
    opening = list(protocol.opening("first", 0))
    # Not the draws with which the agents answered.
    protocol = replace(protocol, rounds=1, own={}, seed=derive_seed(recipe.seed, "student"))
    journal = Journal(context.run.journal(data))
    make = partial(
        TransformersEngine,
        device=profile.finetuning.device,
        batch_size=max(1, profile.generation.batch_size >> context.halvings),
        journal=journal,
        on_batch=(watch := Watch(context, len(debates) * count * (1 + agents))),
    )
    engines = [make(one) for one in served]
    watch.engine = engines[0]
    scorers = [Scorer(engine, engine.prompts.chat, one) for engine, one in zip(engines, served, strict=True)]
    student = SINGLE if goes_on else None

    async def everything() -> list[dict[Utterance, float | None]]:
        return await gather(*(_answers(debate, society, scorers, protocol, count, student) for debate in debates))

    try:
        found = asyncio.run(everything())
    finally:
        for engine in engines:
            engine.close()
        journal.close()
    drawn = [turn for scores in found for turn in scores]
    context.spend(
        SINGLE,
        calls=len(drawn),
        cut_off=sum(turn.cut_off for turn in drawn),
        prompt_tokens=sum(turn.prompt_tokens for turn in drawn),
        completion_tokens=sum(turn.completion_tokens for turn in drawn),
        gpu_seconds=journal.seconds * engines[0].gpus,
    )
    lines = []
    for debate, scores in zip(debates, found, strict=True):
        usable = {turn: score for turn, score in scores.items() if score is not None}
        for turn, weight in zip(usable, likelihood_weights(list(usable.values())), strict=True):
            text = turn.spoken if recipe.training.thinking == "strip" else turn.text
            record = {
                "messages": [*opening, user(turn.prompt), assistant(text)],
                "problem_id": debate.problem.id,
                "weight": weight,
                "opening": len(opening),
            }
            lines.append(json.dumps(record) + "\n")
    write_text(data, "".join(lines))
    journal.remove()
    return data


async def _answers(
    debate: Transcript, society: Society, scorers: Sequence[Scorer], protocol: Protocol, count: int, model: str | None
) -> dict[Utterance, float | None]:
    """The student's answers to a problem, and how likely the society finds each that can be read and scored."""
    problem, (*kept, last) = debate.problem, debate.answers[: debate.ended]
    chat = [user(protocol.prompt("first", problem.question))]
    call = partial(respond, problem, protocol, scorers[0].engine)
    turns = await gather(*(call(1, k, "answer", chat, model) for k in range(count)))
    names = (society.critics if kept else society.generators)[: debate.agents]

    async def score(turn: Utterance) -> float | None:
        if not turn.well_formed:
            return None
        own = replace(problem, id=f"{problem.id}#{turn.agent}")
        said = tuple(replace(turn, agent=n, prompt=before.prompt) for n, before in enumerate(last))
        mine = replace(debate, problem=own, answers=(*kept, said))
        judges = (scorer_of(name, scorers) for name in names)
        each = await gather(*(response_likelihoods(mine, n, name, judge) for n, (judge, name) in enumerate(judges)))
        return fmean(map(fmean, each)) if all(each) else None

    return dict(zip(turns, await gather(*map(score, turns)), strict=True))
