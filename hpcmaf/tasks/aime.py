"""AIME and AMC: competition problems whose answer is a whole number."""

from __future__ import annotations

import re

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files, within

# AIME fills up to three digits; a table of numbers makes decimals of them.
_WHOLE = re.compile(r"0*(\d+?)(?:\.0)?")


def parse(row: Row) -> Problem:
    """One problem, under the names that its collections have for problem and answer."""
    answer = row.text("answer", "Answer")
    if (whole := _WHOLE.fullmatch(answer)) is None:
        raise DataError(f"{row.where}: answer {answer[:20]!r} is no whole number; repair or remove the record")
    return Problem(
        f"aime-{row.text('id', 'ID')}" if row.first_of("id", "ID") else row.position_id("aime"),
        row.text("problem", "Problem", "question", "Question"),
        whole[1],
    )


TASK = Files(
    name="aime",
    answer_form=AnswerForm.BOXED,
    parse=parse,
    layouts=within("", "data/"),
    configs=("default",),
    variants={
        "default": PromptSet(
            instruction="Solve the competition problem below. Reason step by step and check what you find.",
            ending="End with one line of the form Answer: \\boxed{N}, where N is a whole number.",
        )
    },
)
