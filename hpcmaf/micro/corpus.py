"""The corpus of the micro model: debates among authors who slip.

A line is one agent's whole chat in a debate, or one summary. Both are made
from the same prompts that a run uses, so the model meets nothing new when it
is put to work. Every line follows from (seed, chunk) alone, whatever the
number of processes that write.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcmaf.micro.critic import cut_off, revise, summary_of
from hpcmaf.micro.styles import NOISE, STYLES, Author, Expression, Noise, Solution
from hpcmaf.micro.tokenizer import CONTEXT, PAD, encode
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.compact import CompactPrompts

PROMPTS = CompactPrompts()


@dataclass(frozen=True, slots=True)
class Mixture:
    """What kinds of debate the corpus holds, as relative weights.

    Attributes
    ----------
    agents, rounds
        Weight of each society size, and of each length.
    without_summary
        Share of debates in which critics read the answers themselves.
    cut_off
        Share of answers that reach the others cut off, as by a token limit.
    """

    agents: tuple[tuple[int, float], ...] = ((1, 0.02), (2, 0.10), (3, 0.70), (4, 0.06), (5, 0.12))
    rounds: tuple[tuple[int, float], ...] = ((2, 0.80), (3, 0.16), (4, 0.04))
    without_summary: float = 0.15
    cut_off: float = 0.005


MIXTURE = Mixture()


def _pick(weights: Sequence[tuple[int, float]], rng: random.Random) -> int:
    return rng.choices([value for value, _ in weights], [weight for _, weight in weights])[0]


def debate_lines(author: Author, rng: random.Random, mixture: Mixture = MIXTURE) -> Iterator[list[str]]:
    """Hold one debate and yield its lines: chats of up to three agents, and a summary read by each.

    Yields
    ------
    list of str
        Alternating user and assistant turns.
    """
    agents, rounds = _pick(mixture.agents, rng), _pick(mixture.rounds, rng)
    summarized = rng.random() >= mixture.without_summary
    expression = Expression.draw(rng)
    chosen = rng.sample(range(agents), min(agents, 3))
    latest = [author.solve(expression, rng.randrange(len(STYLES)), rng) for _ in range(agents)]
    chats = [[PROMPTS.first(expression.text), one.text] for one in latest]
    for _ in range(1, rounds):
        seen = [cut_off(one, rng) if rng.random() < mixture.cut_off else one for one in latest]
        answers: list[Solution] = []
        for agent in range(agents):
            others = seen[:agent] + seen[agent + 1 :]
            texts = [one.text for one in others]
            summary = summary_of(others)
            if summarized:
                prompt = PROMPTS.update(expression.text, summary)
                if agent in chosen:
                    yield [PROMPTS.summarize(expression.text, texts), summary]
            else:
                prompt = PROMPTS.update_without_summary(expression.text, texts)
            answers.append(revise(author, expression, latest[agent], others, rng))
            chats[agent] += [prompt, answers[-1].text]
        latest = answers
    yield from (chats[agent] for agent in chosen)


def chunk(
    seed: int, index: int, debates: int, noise: Noise = NOISE, mixture: Mixture = MIXTURE
) -> Iterator[NDArray[np.uint8]]:
    """Encoded lines of one chunk of the corpus (ids with ``TARGET`` marks, at most CONTEXT long)."""
    author = Author(noise)
    rng = random.Random(derive_seed(seed, "micro corpus", index))
    for _ in range(debates):
        for turns in debate_lines(author, rng, mixture):
            line = encode(turns)
            if len(line) <= CONTEXT:
                yield line


def batches(lines: Iterator[NDArray[np.uint8]], tokens: int, rng: random.Random) -> list[NDArray[np.uint8]]:
    """Batch lines of like length, padded on the right; in random order.

    Parameters
    ----------
    lines
        Encoded lines.
    tokens
        Padded tokens per batch, roughly.
    rng
        Order of the batches.

    Returns
    -------
    list of ndarray[B, T] of uint8
        With T a multiple of 32. A class of lengths too rare to fill a batch
        makes a small one, so no length is missing from the corpus.
    """
    classes: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)
    for line in lines:
        classes[-(-len(line) // 32) * 32].append(line)
    made = []
    for width, members in classes.items():
        rows = max(1, tokens // width)
        for start in range(0, len(members), rows):
            part = members[start : start + rows]
            batch = np.full((len(part), width), PAD, dtype=np.uint8)
            for row, line in zip(batch, part, strict=True):
                row[: len(line)] = line
            made.append(batch)
    rng.shuffle(made)
    return made
