"""Sums: a calculation of two or three small whole numbers, put in a short sentence.

For small chat models of general use, which get some of it right and some of
it wrong. Generated like arithmetic: a bit of the question's hash says which
side it is on.
"""

from __future__ import annotations

import math
import random

from hpcmaf.answers import AnswerForm
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.arithmetic import Generated, Side, side
from hpcmaf.tasks.base import Problem, PromptSet
from hpcmaf.tasks.prompts import ChatPrompts
from hpcmaf.tasks.task import Task, Variant

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


def generate(count: int, seed: int, which: Side) -> list[Problem]:
    """Draw ``count`` different problems of one side, every form as often as the others while there are any left.

    A larger draw with the same seed begins with the smaller one.
    """
    # Only random() is promised to give the same numbers in every Python.
    draw = random.Random(derive_seed(seed, "sums", which)).random
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        form, low, high = _FORMS[int(draw() * len(_FORMS))]
        numbers = [low + int(draw() * (high - low + 1)) for _ in range(form.count("{}"))]
        if "-" in form:
            numbers.sort(reverse=True)  # nothing below zero
        problem = make_problem(form.format(*numbers))
        if side(problem.question) == which:
            problems.setdefault(problem.id, problem)
    return list(problems.values())


def _chat() -> PromptSet:
    return ChatPrompts(
        instruction="Answer the question below. Write down each step.",
        ending="End with one line of the form Answer: \\boxed{N}, where N is the result, a whole number.",
    )


TASK = Task(
    name="sums", supply=Generated("sums", generate, _MOST), variants={"default": Variant(_chat, AnswerForm.NUMBER)}
)
