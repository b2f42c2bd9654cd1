"""Sums: a calculation of two or three small whole numbers, put in a short sentence.

For small chat models of general use, which get some of it right and some of it wrong.
"""

from __future__ import annotations

import math

from hpcmaf.answers import AnswerForm
from hpcmaf.tasks.generated import Draw, Generated
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet

# Form of an expression, and the smallest and largest of its numbers: some 1,600 questions on each side.
_FORMS = (("{} + {}", 1, 40), ("{} - {}", 1, 40), ("{} * {}", 2, 12), ("{} + {} + {}", 1, 9))
_MOST = 1_200


def make_problem(expression: str) -> Problem:
    """One problem with its exact answer; the usual precedence."""
    if "*" in expression:
        gold = math.prod(map(int, expression.split(" * ")))
    else:
        gold = sum(map(int, expression.replace(" - ", " + -").split(" + ")))
    return Problem(id=f"sums-{expression.replace(' ', '')}", question=f"What is {expression}?", gold=str(gold))


def _make(draw: Draw) -> Problem:
    form, low, high = _FORMS[draw(0, len(_FORMS) - 1)]
    numbers = [draw(low, high) for _ in range(form.count("{}"))]
    if "-" in form:
        numbers.sort(reverse=True)  # nothing below zero
    return make_problem(form.format(*numbers))


TASK = Generated(
    name="sums",
    make=_make,
    most=_MOST,
    answer_form=AnswerForm.NUMBER,
    variants={
        "default": PromptSet(
            instruction="Answer the question below. Write down each step.",
            ending="End with one line of the form Answer: \\boxed{N}, where N is the result, a whole number.",
        )
    },
)
