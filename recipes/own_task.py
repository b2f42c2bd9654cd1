"""A task of your own, in one file: greatest common divisors.

    task: {name: own_task.py:GCD, train: 100, eval: 100}

in a recipe beside it. :class:`hpcmaf.Generated` draws problems from a run's seed; for problems in files there is
:class:`hpcmaf.Files`, whose ``parse`` makes a problem of a row. A run's jobs load the file from where it is.
"""

import math
from collections.abc import Callable

from hpcmaf import AnswerForm, Generated, Problem, PromptSet


def make(draw: Callable[[int, int], int]) -> Problem:
    """One problem; ``draw(low, high)`` gives a whole number. Training and evaluation never share a question."""
    factor, first, second = draw(2, 30), draw(2, 40), draw(2, 40)
    a, b = factor * first, factor * second
    return Problem(
        id=f"gcd-{a}-{b}", question=f"What is the greatest common divisor of {a} and {b}?", gold=str(math.gcd(a, b))
    )


GCD = Generated(
    name="gcd",
    make=make,
    most=100_000,
    answer_form=AnswerForm.NUMBER,
    variants={
        "default": PromptSet(
            instruction="Answer the question below. Write down the prime factors first.",
            ending="End with one line of the form Answer: \\boxed{N}, where N is a whole number.",
        )
    },
)
