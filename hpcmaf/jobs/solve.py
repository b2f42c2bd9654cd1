"""One question to the society of a run, debated as in its evaluation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hpcmaf.answers import Vote
from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.methods import Society
from hpcmaf.debate.protocol import debate
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines.engine import one_engine
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.jobs.serving import last_society, served_models, society_of, voting_weights, with_own_base
from hpcmaf.run.directory import RunDir
from hpcmaf.tasks.problems import Problem, question_hash


@dataclass(frozen=True, slots=True)
class Solved:
    """A debate about one question.

    Attributes
    ----------
    method, iteration, seed
        Of the society, and of the draws.
    society
        Who spoke with which model.
    votes
        Of every round; the last one's answer is the society's (paper, section 2).
    bases
        Models that agents with a base of their own, and the summarizer, were made from.
    """

    method: str
    iteration: int
    seed: int
    society: Society
    transcript: Transcript
    votes: tuple[Vote, ...]
    bases: Mapping[str, str]

    def model(self, round: int, agent: int) -> str | None:
        """Whose model an agent spoke with in a round; ``None`` is the base."""
        return (self.society.generators if round == 1 else self.society.critics)[agent]


def solve(
    run: RunDir, question: str, *, iteration: int | None = None, seed: int | None = None, device: str = "auto"
) -> Solved:
    """Let a run's society debate a question that is in none of its data.

    It is put and debated exactly as an evaluation problem of the run: the
    method's inference, the recipe's prompts and sampling.

    Parameters
    ----------
    iteration
        Whose society; the last whose models are all there if ``None``.
    seed
        Of the draws; the recipe's if ``None``. The same seed gives the same debate.
    device
        ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    DataError
        Not a run, a model that is missing, or a question that the run's prompts cannot put.
    """
    from hpcmaf.engines.transformers_engine import TransformersEngine

    recipe = Recipe.model_validate(run.load_plan().recipe)
    t = last_society(run, recipe) if iteration is None else iteration
    seed = recipe.seed if seed is None else seed
    served = served_models(run, recipe, t)
    society = society_of(recipe, served, evaluating=True)
    protocol = protocol_of(recipe.model_copy(update={"seed": seed}), t, evaluating=True)
    protocol.grader.check()
    protocol.prompt("first", question)  # refuses what cannot be put, before a model is loaded
    problem = Problem(f"question-{question_hash(question)[:16]}", question)
    engine = one_engine(served, lambda one: TransformersEngine(one, device=device))
    try:
        transcript = asyncio.run(debate(problem, society, protocol, engine))
        weights = json.loads(voting_weights(run, recipe, t, society.agents) or "[]")
        transcript = replace(transcript, weights=tuple(weights))
    finally:
        engine.close()
    votes = tuple(consensus(transcript, m, seed, t) for m in range(1, transcript.rounds + 1))
    bases = {name: recipe.of(name).model.path for name in with_own_base(recipe)}
    return Solved(recipe.method, t, seed, society, transcript, votes, bases)
