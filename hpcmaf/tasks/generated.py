"""Problems that are generated from a run's seed: arithmetic, words, sums, and those of a task of your own.

A bit of a question's hash says which side it is on, so training and evaluation stay apart whatever the seeds and
counts, in every run and in the micro model's corpus.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import ConfigError
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.problems import Problem, question_hash
from hpcmaf.tasks.prompts import PromptSet, compact_prompts, compiled, expression_of, shipped, task_prompts
from hpcmaf.tasks.splits import Splits
from hpcmaf.tasks.task import Task

Side = Literal["train", "eval"]
Draw = Callable[[int, int], int]


def side(question: str) -> Side:
    """Which side a question belongs to, for good."""
    return "eval" if int(question_hash(question)[-1], 16) & 1 else "train"


@dataclass(frozen=True, kw_only=True)
class Generated(Task):
    """A task that needs no source.

    Attributes
    ----------
    make
        Makes one problem with a function that draws a whole number from a range.
    decisive
        The part of a question that says which side it is on.
    most
        Problems of a side; far below what there are, so that drawing without repetition stays quick.
    """

    make: Callable[[Draw], Problem]
    decisive: Callable[[str], str] = str
    most: int = 10_000_000

    def generate(self, count: int, seed: int, which: Side) -> list[Problem]:
        """Draw ``count`` different problems of one side; a larger draw of a seed begins with the smaller one."""
        # Only random() is promised to give the same numbers in every Python.
        uniform = random.Random(derive_seed(seed, self.name, which)).random
        problems: dict[str, Problem] = {}
        while len(problems) < count:
            problem = self.make(lambda low, high: low + int(uniform() * (high - low + 1)))
            if side(self.decisive(problem.question)) == which:
                problems.setdefault(problem.id, problem)
        return list(problems.values())

    def splits(
        self, source: Path | None, train: int, eval: int, seed: int, levels: Sequence[int] | None = None
    ) -> Splits:
        """Generate both sides from the seed."""
        if source is not None or levels is not None:
            key = "source" if levels is None else "levels"
            raise ConfigError(f"task.{key}: {self.name} is generated, from no file and of no levels; remove the key")
        for key, count in (("train", train), ("eval", eval)):
            if count > self.most:
                raise ConfigError(f"task.{key}: {count} problems requested, at most {self.most} can be; lower it")
        return Splits(self.generate(train, seed, "train"), self.generate(eval, seed, "eval"))


# --- arithmetic, words (its expressions as stories), sums (small ones, for small chat models) ---

_NUMBERS, _COUNTS, _PRICES = (0, 29), (2, 12), (10, 29)
_NAMES = ("Amara", "Bruno", "Chiara", "Deniz", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas")
_THINGS = ("baskets", "candles", "drawings", "jars of honey", "notebooks", "plants", "scarves", "tickets")
# Every story names its numbers in the order a, b, c, d, e, f and no others.
_STORIES = [text for name, text in shipped("words").items() if name.startswith("story")]
# Of sums: forms, and the smallest and largest of their numbers; some 1,600 questions on each side.
_SUMS = (("{} + {}", 1, 40), ("{} - {}", 1, 40), ("{} * {}", 2, 12), ("{} + {} + {}", 1, 9))


def _value(a: int, b: int, c: int, d: int, e: int, f: int) -> str:
    return str(a + b * c + d - e * f)


def arithmetic(draw: Draw) -> Problem:
    """a+b*c+d-e*f over six integers from 0 to 29 (paper, section 3.1); the usual precedence."""
    a, b, c, d, e, f = numbers = [draw(*_NUMBERS) for _ in range(6)]
    return Problem("-".join(map(str, ("arithmetic", *numbers))), f"{a}+{b}*{c}+{d}-{e}*{f}", _value(*numbers))


def words(draw: Draw) -> Problem:
    """A story of money that comes to such an expression, over other numbers, for transfer to and from arithmetic.

    The ``compact`` prompts give the expression itself: with them there is transfer to other numbers, not to language.
    """
    numbers = [draw(*one) for one in (_NUMBERS, _COUNTS, _PRICES) * 2]
    story, name, sold, bought = (some[draw(0, len(some) - 1)] for some in (_STORIES, _NAMES, _THINGS, _THINGS))
    letters = dict(zip("abcdef", numbers, strict=True))
    text = compiled(story).render(letters, name=name, sold=sold, bought=bought)
    return Problem("-".join(map(str, ("words", *numbers))), text, _value(*numbers))


def sums(draw: Draw) -> Problem:
    """Two or three small numbers in a short sentence: small chat models get some of it right and some of it wrong."""
    form, low, high = _SUMS[draw(0, len(_SUMS) - 1)]
    numbers = [draw(low, high) for _ in range(form.count("{}"))]
    if "-" in form:
        numbers.sort(reverse=True)  # nothing below zero
    expression = form.format(*numbers)
    gold = numbers[0] * numbers[1] if "*" in form else numbers[0] - numbers[1] if "-" in form else sum(numbers)
    return Problem(f"sums-{expression.replace(' ', '')}", f"What is {expression}?", str(gold))


def _task(make: Callable[[Draw], Problem], compact: PromptSet | None = None, **more: Any) -> Generated:
    variants = {"default": task_prompts(make.__name__)} | ({"compact": compact} if compact else {})
    return Generated(name=make.__name__, make=make, answer_form=AnswerForm.NUMBER, variants=variants, **more)


TASKS = {
    "arithmetic": _task(arithmetic, compact_prompts()),
    "words": _task(words, compact_prompts(), decisive=expression_of),
    "sums": _task(sums, most=1_200),
}
