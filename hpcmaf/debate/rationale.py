"""STaR's rollouts: one answer, and where gold says it is wrong, one more with gold as a hint.

The only place before evaluation where a gold answer is looked at.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from hpcmaf.debate.protocol import Protocol, respond, user
from hpcmaf.debate.society import Society
from hpcmaf.debate.transcript import NOT_ASKED, Transcript
from hpcmaf.engines.base import Engine
from hpcmaf.tasks.problems import Problem


async def rationalise(problem: Problem, society: Society, protocol: Protocol, engine: Engine) -> Transcript:
    """Answer a problem, with a hint if that went wrong.

    The second answer has a chat of its own, not the first one's: it has
    to read like a solution, not like a correction.

    Returns
    -------
    Transcript
        Of one agent in two rounds. Without a second answer its turn is empty.
    """
    call, prompts, model = partial(respond, problem, protocol, engine), protocol.prompts, society.generators[0]
    first = await call(1, 0, "answer", [user(prompts.first(problem.question))], model)
    second = replace(NOT_ASKED, round=2)
    right = protocol.grader.right(first.answer, problem)
    if problem.gold is not None and not right:
        second = await call(2, 0, "answer", [user(prompts.hint(problem.question, problem.gold))], model)
    return Transcript(problem, ((first,), (second,)), openings=protocol.openings, grader=protocol.grader)
