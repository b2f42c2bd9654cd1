"""Words: stories of money that come to a+b*c+d-e*f, for transfer to and from arithmetic.

Generated over other numbers: amounts from 0 to 29, counts
from 2 to 12, prices from 10 to 29. A story is on the side of its expression,
so no evaluation story comes to an expression that arithmetic trains on, nor
to one of the micro model's corpus.

The micro model reads no words. Its prompts (``compact``) give it the story's
expression, so what it can show is transfer to other numbers, not to language.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.arithmetic import make_problem
from hpcmaf.tasks.compact import CompactPrompts
from hpcmaf.tasks.generated import Draw, Generated
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet

_AMOUNTS, _COUNTS, _PRICES = (0, 29), (2, 12), (10, 29)
_RANGES = (_AMOUNTS, _COUNTS, _PRICES, _AMOUNTS, _COUNTS, _PRICES)
_NAMES = ("Amara", "Bruno", "Chiara", "Deniz", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas")
_THINGS = ("baskets", "candles", "drawings", "jars of honey", "notebooks", "plants", "scarves", "tickets")
_ENDING = "How many euros does {name} have in the end? A debt counts as a negative number."
# Every story names its numbers in the order a, b, c, d, e, f and no others.
_STORIES = (
    (
        "{name} has {a} euros, sells {b} {sold} at {c} euros each, is given {d} euros by an aunt, and then buys {e} {bought} "
        "at {f} euros each."
    ),
    (
        "There are {a} euros in the cash box of {name}. On Monday {b} {sold} are sold for {c} euros apiece, on Tuesday {d} euros "
        "are found under the counter, and on Wednesday {e} {bought} are ordered and paid for at {f} euros apiece."
    ),
    (
        "With {a} euros saved, {name} goes to the fair and sells {b} {sold}, taking {c} euros for each. A raffle brings {d} "
        "euros more. On the way home {name} pays for {e} {bought}, which cost {f} euros each."
    ),
    (
        "{name} begins the week with {a} euros. A customer takes {b} {sold} and pays {c} euros for every one of them, and a "
        "friend returns a loan of {d} euros. The week ends with a bill for {e} {bought} at {f} euros each, which {name} pays."
    ),
)


def make_story(numbers: Sequence[int], story: int, name: str, sold: str, bought: str) -> Problem:
    """One problem; ``numbers`` are a to f of arithmetic, whose gold answer it has."""
    a, b, c, d, e, f = numbers
    story_text = _STORIES[story].format(name=name, sold=sold, bought=bought, a=a, b=b, c=c, d=d, e=e, f=f)
    return Problem(
        id="words-" + "-".join(map(str, numbers)),
        question=f"{story_text} {_ENDING.format(name=name)}",
        gold=make_problem(a, b, c, d, e, f).gold,
    )


def expression_of_story(question: str) -> str:
    """The expression that a story comes to.

    Raises
    ------
    DataError
        The question does not hold six numbers.
    """
    numbers = re.findall(r"\d+", question)
    if len(numbers) != 6:
        raise DataError(f"words: {len(numbers)} numbers instead of six in the question {question[:60]!r}")
    a, b, c, d, e, f = numbers
    return f"{a}+{b}*{c}+{d}-{e}*{f}"


def _make(draw: Draw) -> Problem:
    numbers = [draw(low, high) for low, high in _RANGES]
    story, name, sold, bought = (draw(0, len(some) - 1) for some in (_STORIES, _NAMES, _THINGS, _THINGS))
    return make_story(numbers, story, _NAMES[name], _THINGS[sold], _THINGS[bought])


TASK = Generated(
    name="words",
    make=_make,
    decisive=expression_of_story,
    answer_form=AnswerForm.NUMBER,
    variants={
        "default": PromptSet(
            instruction="Solve the problem below step by step, writing down each calculation.",
            ending="End with one line of the form Answer: \\boxed{N}, where N is the answer, a whole number.",
        ),
        "compact": CompactPrompts(expression=expression_of_story),
    },
)
