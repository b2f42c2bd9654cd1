"""Problems that are generated from a run's seed.

A bit of a question's hash says which side it is on, so training and evaluation stay apart whatever the seeds and
counts, in every run and in the micro model's corpus.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpcmaf.errors import ConfigError
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.problems import Problem, question_hash
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
        Far below what a side has, so that drawing without repetition stays quick.
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
