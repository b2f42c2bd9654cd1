"""The corpus of the micro model: debates among authors who slip.

A line is one agent's whole chat in a debate, or one summary. Both are made
from the same prompts that a run uses, so the model meets nothing new when it
is put to work. Every line follows from (seed, chunk) alone, whatever the
number of processes that write.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.generated import side
from hpcmaf.tasks.prompts import compact_prompts
from results.micro_model.critics import agreed, cut_off, revise, summary_of
from results.micro_model.styles import NOISE, STYLES, Author, Expression, Noise, Solution
from results.micro_model.tokenizer import PAD, encode

PROMPTS = compact_prompts()


@dataclass(frozen=True, slots=True)
class Mixture:
    """What kinds of debate the corpus holds, as relative weights.

    Attributes
    ----------
    agents, rounds
        Weight of each society size, and of each length.
    solos
        First answers outside any debate, per debate: the cheapest lines to
        learn arithmetic from, and the only ones that train first answers.
    calm
        Share kept of the debates whose first answers already agree.
        Without this, debates with something to settle are too rare to learn
        from. What a critic does with given answers is left as it is.
    without_summary
        Share of debates in which critics read the answers themselves.
    cut_off
        Share of answers that reach the others cut off, as by a token limit.
    """

    agents: tuple[tuple[int, float], ...] = ((1, 0.01), (2, 0.10), (3, 0.81), (4, 0.02), (5, 0.06))
    rounds: tuple[tuple[int, float], ...] = ((2, 0.93), (3, 0.06), (4, 0.01))
    solos: int = 8
    calm: float = 0.3
    without_summary: float = 0.15
    cut_off: float = 0.005


MIXTURE = Mixture()


def _pick(weights: Sequence[tuple[int, float]], rng: random.Random) -> int:
    return rng.choices([value for value, _ in weights], [weight for _, weight in weights])[0]


def draw(rng: random.Random) -> Expression:
    """An expression of the task's training side: no evaluation question is in the corpus."""
    while True:
        expression = Expression.draw(rng)
        if side(expression.text) == "train":
            return expression


def disputed(answers: Sequence[Solution]) -> bool:
    """Whether no whole solution is agreed on, so that a critic has something to settle."""
    return len(answers) > 1 and agreed([(one.p, one.q, one.result) for one in answers]) is None


def debate_lines(author: Author, rng: random.Random, mixture: Mixture = MIXTURE) -> Iterator[list[str]]:
    """Run one debate and yield its lines: chats of up to three agents, and the summaries one of them reads.

    Yields
    ------
    list of str
        Alternating user and assistant turns.
    """
    agents, rounds = _pick(mixture.agents, rng), _pick(mixture.rounds, rng)
    summarized = rng.random() >= mixture.without_summary
    chosen = rng.sample(range(agents), min(agents, 3))
    while True:
        expression = draw(rng)
        latest = [author.solve(expression, rng.randrange(len(STYLES)), rng) for _ in range(agents)]
        if disputed(latest) or rng.random() < mixture.calm:
            break
    chats = [[PROMPTS.render("first", expression.text), one.text] for one in latest]
    for _ in range(1, rounds):
        seen = [cut_off(one, rng) if rng.random() < mixture.cut_off else one for one in latest]
        answers: list[Solution] = []
        for agent in range(agents):
            others = seen[:agent] + seen[agent + 1 :]
            texts = [one.text for one in others]
            summary = summary_of(others)
            if summarized:
                prompt = PROMPTS.render("update", expression.text, summary)
                if agent == chosen[0]:
                    yield [PROMPTS.render("summarize", expression.text, texts), summary]
            else:
                prompt = PROMPTS.render("update_without_summary", expression.text, texts)
            answers.append(revise(author, expression, latest[agent], others, rng))
            chats[agent] += [prompt, answers[-1].text]
        latest = answers
    yield from (chats[agent] for agent in chosen)


def lines(seed: int, index: int, noise: Noise = NOISE, mixture: Mixture = MIXTURE) -> Iterator[NDArray[np.uint8]]:
    """Encoded lines of one chunk of the corpus, without end (ids with ``TARGET`` marks)."""
    author = Author(noise)
    rng = random.Random(derive_seed(seed, "micro corpus", index))
    while True:
        for turns in debate_lines(author, rng, mixture):
            # Selected by their first answers, so these are no sample to learn first answers from.
            yield encode(turns, start=2 if len(turns) > 2 else 0)
        for _ in range(mixture.solos):
            expression = draw(rng)
            answer = author.solve(expression, rng.randrange(len(STYLES)), rng)
            yield encode([PROMPTS.render("first", expression.text), answer.text])


@dataclass(frozen=True, slots=True)
class Rows:
    """One shape of batch: lines up to ``width`` tokens, ``count`` of them, in every ``every``-th step."""

    width: int
    count: int
    every: int


# Solos; debates of up to three agents and two rounds; larger and longer ones.
# Few and fixed shapes: compiled code wants them.
SHAPES = (Rows(96, 160, 1), Rows(192, 128, 1), Rows(576, 32, 4))


def steps(
    seed: int, index: int, count: int, noise: Noise = NOISE, shapes: tuple[Rows, ...] = SHAPES
) -> list[list[NDArray[np.uint8]]]:
    """Batches of one chunk, step by step.

    Parameters
    ----------
    seed, index
        Chunk ``index`` of the corpus ``seed``.
    count
        Steps in the chunk, a multiple of every shape's ``every``.
    noise
        Of the authors.
    shapes
        Batches of a step.

    Returns
    -------
    list of list of ndarray[B, T] of uint8
        Per step one batch of each shape that is due, padded on the right. A
        line goes to the narrowest shape it fits; which lines come is a matter
        of chance alone, not of their length within the shape.
    """
    wanted = [shape.count * (count // shape.every) for shape in shapes]
    stock = [np.full((want, shape.width), PAD, dtype=np.uint8) for want, shape in zip(wanted, shapes, strict=True)]
    filled = [0] * len(shapes)
    for line in lines(seed, index, noise):
        slot = next((at for at, shape in enumerate(shapes) if len(line) <= shape.width), None)
        if slot is None or filled[slot] == wanted[slot]:
            continue
        stock[slot][filled[slot], : len(line)] = line
        filled[slot] += 1
        if filled == wanted:
            break
    made: list[list[NDArray[np.uint8]]] = []
    for step in range(count):
        made.append(
            [
                rows[step // shape.every * shape.count :][: shape.count]
                for rows, shape in zip(stock, shapes, strict=True)
                if step % shape.every == 0
            ]
        )
    return made
