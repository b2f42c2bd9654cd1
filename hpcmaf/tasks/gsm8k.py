"""GSM8K: word problems whose gold answer is the number after ``####``."""

from __future__ import annotations

import re

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files, within

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def parse(row: Row) -> Problem:
    """One problem; its id is the position in the official file, its gold answer has no thousands separators."""
    question, (_, mark, tail) = row.text("question"), row.text("answer").rpartition("####")
    number = tail.strip().replace(",", "").removeprefix("$")
    if not mark or not _NUMBER.fullmatch(number):
        raise DataError(f"{row.where}: no number after '####' in 'answer'; is this GSM8K's own form?")
    return Problem(f"gsm8k-{row.split}-{row.index:05d}", question, number)


TASK = Files(
    name="gsm8k",
    answer_form=AnswerForm.NUMBER,
    parse=parse,
    layouts=within("", "main/", "data/", "default/", "grade_school_math/data/"),
    configs=("main",),
    variants={
        "default": PromptSet(
            instruction="Solve the word problem below. Reason step by step and write down every calculation.",
            ending="End with one line of the form Answer: \\boxed{N}, where N is a plain number without units.",
        )
    },
)
