"""What a critic of the corpus does with the other agents' answers.

It follows agreement: a product that most of the latest solutions share is
adopted with a high chance, and so is a whole solution. Whatever is in dispute
is worked again, in any style. A critic that ignored the others would make
the debate no better than its first answers, and self-training would then
make it worse.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from results.micro_model.styles import STYLES, Author, Expression, Solution

Claim = TypeVar("Claim")


def summary_of(others: Sequence[Solution]) -> str:
    """Both products and the result of each other solution, in order; ``?`` for one without a result."""
    return ";".join("?" if one.result is None else f"p{one.p}q{one.q}#{one.result}" for one in others)


def cut_off(solution: Solution, rng: random.Random) -> Solution:
    """The same answer broken off before its result, as by a token limit; it claims nothing."""
    end = rng.randrange(1, solution.text.index("#") + 1)
    return Solution(solution.text[:end], solution.style, None, None, None)


def agreed(claims: Sequence[Claim]) -> Claim | None:
    """The claim that at least two make and more than any other; ``None`` where there is none."""
    ranked = Counter(claims).most_common(2)
    if not ranked or ranked[0][1] < 2 or (len(ranked) > 1 and ranked[1][1] == ranked[0][1]):
        return None
    return ranked[0][0]


def revise(
    author: Author, expression: Expression, own: Solution, others: Sequence[Solution], rng: random.Random
) -> Solution:
    """Write a critic's answer after it has read the others'."""
    follow, table = author.noise.follow, [one for one in (own, *others) if one.result is not None]
    style = own.style if rng.random() < 0.7 else rng.randrange(len(STYLES))
    whole = agreed([(one.p, one.q, one.result) for one in table])
    if whole is not None and rng.random() < author.noise.adopt_whole:
        p, q, result = whole
        return Solution(f"p{p};q{q}#{result}", style, p, q, result)
    text = ""
    values = []
    for name, x, y in (("p", expression.b, expression.c), ("q", expression.e, expression.f)):
        claim = agreed([getattr(one, name) for one in table])
        if claim is not None and rng.random() < follow:
            text += f"{name}{claim};"
        else:
            work, claim = author.product(style if claim is not None else rng.randrange(len(STYLES)), x, y, rng)
            text += f"{work};"
        values.append(claim)
    tail, result = author.total(expression, style, values[0], values[1], rng)
    return Solution(text + tail, style, values[0], values[1], result)
