"""GSM8K: word problems whose gold answer is the number after ``####``."""

from __future__ import annotations

import re

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.base import Problem
from hpcmaf.tasks.files import Files
from hpcmaf.tasks.layouts import within
from hpcmaf.tasks.prompts import ChatPrompts
from hpcmaf.tasks.rows import Row
from hpcmaf.tasks.task import Task, Variant

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def gold_of(solution: str, where: str) -> str:
    """The number after the last ``####``, without thousands separators.

    Raises
    ------
    DataError
        There is none.
    """
    _, mark, tail = solution.rpartition("####")
    number = tail.strip().replace(",", "").removeprefix("$")
    if not mark or not _NUMBER.fullmatch(number):
        raise DataError(f"{where}: no number after '####' in 'answer'; is this GSM8K's own form?")
    return number


def parse(row: Row) -> Problem:
    """One problem; its id is the position in the official file."""
    return Problem(
        id=f"gsm8k-{row.split}-{row.index:05d}",
        question=row.text("question"),
        gold=gold_of(row.text("answer"), row.where),
    )


def _prompts() -> ChatPrompts:
    return ChatPrompts(
        instruction="Solve the word problem below. Reason step by step and write down every calculation.",
        ending="End with one line of the form Answer: \\boxed{N}, where N is a plain number without units.",
    )


TASK = Task(
    name="gsm8k",
    supply=Files("gsm8k", parse, within("", "main/", "data/", "default/", "grade_school_math/data/"), ("main",)),
    variants={"default": Variant(_prompts, AnswerForm.NUMBER)},
)
