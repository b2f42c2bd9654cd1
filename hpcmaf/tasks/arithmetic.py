"""Arithmetic: a+b*c+d-e*f over six integers from 0 to 29 (paper, section 3.1), generated."""

from __future__ import annotations

from hpcmaf.answers import AnswerForm
from hpcmaf.tasks.compact import CompactPrompts
from hpcmaf.tasks.generated import Draw, Generated
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet

LARGEST = 29


def make_problem(a: int, b: int, c: int, d: int, e: int, f: int) -> Problem:
    """One problem with its exact answer; the usual precedence."""
    return Problem(
        id=f"arithmetic-{a}-{b}-{c}-{d}-{e}-{f}",
        question=f"{a}+{b}*{c}+{d}-{e}*{f}",
        gold=str(a + b * c + d - e * f),
    )


def _make(draw: Draw) -> Problem:
    return make_problem(*(draw(0, LARGEST) for _ in range(6)))


TASK = Generated(
    name="arithmetic",
    make=_make,
    answer_form=AnswerForm.NUMBER,
    variants={
        "default": PromptSet(
            instruction=(
                "Work out the value of the expression below. Do the multiplications first, then the additions and "
                "subtractions from left to right, and write down each step."
            ),
            ending="End with one line of the form Answer: \\boxed{N}, where N is the value, a whole number.",
        ),
        "compact": CompactPrompts(),
    },
)
