"""Worked solutions: honest arithmetic, slips that propagate, hard facts where they are said to be."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm, extract
from hpcmaf.micro.styles import LARGEST, NO_NOISE, NOISE, STYLES, Author, Expression, is_hard
from hpcmaf.micro.tokenizer import CHARACTERS

NUMBERS = st.integers(0, LARGEST)
EXPRESSIONS = st.builds(Expression, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
SEEDS = st.integers(0, 2**32)
STYLE = st.integers(0, len(STYLES) - 1)
SLIPPING, CAREFUL = Author(NOISE), Author(NO_NOISE)


@given(EXPRESSIONS, STYLE, SEEDS)
def test_without_noise_every_style_is_right_in_every_step(expression, style, seed) -> None:
    solution = CAREFUL.solve(expression, style, random.Random(seed))
    assert solution.result == expression.value
    assert solution.p == expression.b * expression.c and solution.q == expression.e * expression.f
    steps, running = solution.text.split("#")[0].split(";"), None
    for step in steps:
        # A step that begins with a sign goes on from the last result.
        sides = (f"{running}{step}" if step[0] in "+-" and running is not None else step).split("=")
        values = [eval(side) for side in sides]
        assert len(set(values)) == 1, solution.text
        running = values[-1]
    assert running == expression.value


@given(EXPRESSIONS, STYLE, SEEDS)
def test_an_answer_ends_with_its_result_and_uses_known_characters(expression, style, seed) -> None:
    solution = SLIPPING.solve(expression, style, random.Random(seed))
    assert set(solution.text) <= set(CHARACTERS)
    assert extract(solution.text, AnswerForm.NUMBER) == str(solution.result)
    assert len(solution.text) <= 70


@given(EXPRESSIONS, STYLE, SEEDS)
def test_products_claimed_are_products_written(expression, style, seed) -> None:
    solution = SLIPPING.solve(expression, style, random.Random(seed))
    for x, y, claimed in ((expression.b, expression.c, solution.p), (expression.e, expression.f, solution.q)):
        step = next(step for step in solution.text.split(";") if step.startswith(f"{x}*{y}="))
        assert step.endswith(f"={claimed}") or (x, y) == (expression.e, expression.f) == (expression.b, expression.c)


@given(EXPRESSIONS, STYLE, SEEDS)
def test_a_slip_in_a_product_reaches_the_result(expression, style, seed) -> None:
    """With sums done carefully, the result is off by exactly what the products are off."""
    only_products = Author(
        type(NOISE)(hard_right=(0.0, 0.2), easy=0.3, carry=(0, 0, 0), borrow=(0, 0, 0), misconceptions=0.0)
    )
    solution = only_products.solve(expression, style, random.Random(seed))
    assert solution.result == expression.a + solution.p + expression.d - solution.q


@pytest.mark.parametrize("style", range(len(STYLES)))
def test_hard_facts_are_slipped_on_about_every_other_time_and_others_hardly(style) -> None:
    rng = random.Random(style)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(6000):
        x, y = rng.randrange(LARGEST + 1), rng.randrange(LARGEST + 1)
        right[is_hard(style, x, y)].append(SLIPPING.product(style, x, y, rng)[1] == x * y)
    assert 0.42 < sum(right[True]) / len(right[True]) < 0.60
    assert 0.96 < sum(right[False]) / len(right[False]) < 1.0


def test_slips_repeat_within_a_style_and_differ_between_styles() -> None:
    """The errors a vote cannot mend must be rarer across styles than within one."""
    rng = random.Random(5)
    same = other = 0
    for _ in range(8000):
        x, y = rng.randrange(10, LARGEST + 1), rng.randrange(10, LARGEST + 1)
        wrong = [SLIPPING.product(style, x, y, rng)[1] for style in (0, 0, 1)]
        same += wrong[0] == wrong[1] != x * y
        other += wrong[0] == wrong[2] != x * y
    assert same > 3 * other


def test_the_language_does_not_depend_on_a_seed() -> None:
    again = Author(NOISE)
    chances = [(style, x, y) for style in range(3) for x in range(0, 30, 7) for y in range(0, 30, 5)]
    assert [again.chance(*fact) for fact in chances] == [SLIPPING.chance(*fact) for fact in chances]


@given(EXPRESSIONS)
def test_an_expression_reads_as_the_task_writes_it(expression) -> None:
    assert re.fullmatch(r"\d+\+\d+\*\d+\+\d+-\d+\*\d+", expression.text)
    assert eval(expression.text) == expression.value
