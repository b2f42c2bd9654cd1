"""Arithmetic: a+b*c+d-e*f over six integers from 0 to 29 (paper, section 3.1).

Generated, so any number of problems is at hand. A bit of the question's hash
says which side it is on, so training and evaluation stay apart whatever the
seeds and counts, in every run and in the micro model's corpus.
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
from hpcmaf.tasks.base import Problem, PromptSet, question_hash
from hpcmaf.tasks.prompts import ChatPrompts
from hpcmaf.tasks.splits import Splits
from hpcmaf.tasks.task import Task, Variant

Side = Literal["train", "eval"]
LARGEST = 29


def side(question: str) -> Side:
    """Which side a question belongs to, for good."""
    return "eval" if int(question_hash(question)[-1], 16) & 1 else "train"


def make_problem(a: int, b: int, c: int, d: int, e: int, f: int) -> Problem:
    """One problem with its exact answer; the usual precedence."""
    return Problem(
        id=f"arithmetic-{a}-{b}-{c}-{d}-{e}-{f}",
        question=f"{a}+{b}*{c}+{d}-{e}*{f}",
        gold=str(a + b * c + d - e * f),
    )


def generate(count: int, seed: int, which: Side) -> list[Problem]:
    """Draw ``count`` different problems of one side, uniformly.

    A larger draw with the same seed begins with the smaller one.
    """
    # Only random() is promised to give the same numbers in every Python.
    draw = random.Random(derive_seed(seed, "arithmetic", which)).random
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = make_problem(*(int(draw() * (LARGEST + 1)) for _ in range(6)))
        if side(problem.question) == which:
            problems.setdefault(problem.id, problem)
    return list(problems.values())


@dataclass(frozen=True, slots=True)
class Generated:
    """A :class:`hpcmaf.tasks.task.Supply` that needs no source.

    Attributes
    ----------
    name
        Of the task, for messages.
    generate
        Draws ``count`` different problems of a side from a seed.
    most
        Far below what a side has, so that drawing without repetition stays quick.
    """

    name: str
    generate: Callable[[int, int, Side], list[Problem]]
    most: int = 10_000_000

    def splits(self, source: Path | None, train: int, eval: int, seed: int, levels: Sequence[int] | None) -> Splits:
        """Generate both sides from the seed.

        Raises
        ------
        ConfigError
            A source or levels are given, or too many problems asked for.
        """
        if source is not None:
            raise ConfigError(f"task.source: {self.name} is generated and reads no file; remove '{source}'")
        if levels is not None:
            raise ConfigError(f"task.levels: {self.name} has no levels; remove the key")
        for key, count in (("train", train), ("eval", eval)):
            if count > self.most:
                raise ConfigError(f"task.{key}: {count} problems asked for, at most {self.most} can be; lower it")
        return Splits(self.generate(train, seed, "train"), self.generate(eval, seed, "eval"))

    def prepare(self, source: str, out: Path, split: str | None) -> dict[str, Any]:
        """Refuse: there is nothing to prepare.

        Raises
        ------
        ConfigError
            Always.
        """
        raise ConfigError(f"{self.name} is generated from the recipe's seed; leave task.source out and prepare nothing")


def _compact() -> PromptSet:
    from hpcmaf.tasks.compact import CompactPrompts

    return CompactPrompts()


def _chat() -> PromptSet:
    return ChatPrompts(
        instruction=(
            "Work out the value of the expression below. Do the multiplications first, then the additions and "
            "subtractions from left to right, and write down each step."
        ),
        ending="End with one line of the form Answer: \\boxed{N}, where N is the value, a whole number.",
    )


TASK = Task(
    name="arithmetic",
    supply=Generated("arithmetic", generate),
    variants={
        "default": Variant(_chat, AnswerForm.NUMBER),
        "compact": Variant(_compact, AnswerForm.NUMBER),
    },
)
