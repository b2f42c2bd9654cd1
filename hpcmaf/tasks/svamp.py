"""SVAMP: one-step stories whose numbers or wording were varied; the answer is a number."""

from __future__ import annotations

from hpcmaf.answers import AnswerForm
from hpcmaf.tasks.gsm8k import TASK as GSM8K
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files, within


def parse(row: Row) -> Problem:
    """One problem: the story, and the question about it."""
    return Problem(
        f"svamp-{row.text('ID')}" if row.first_of("ID") else row.position_id("svamp"),
        f"{row.text('Body').rstrip('.')}. {row.text('Question')}",
        row.text("Answer").removesuffix(".0"),
    )


TASK = Files(
    name="svamp",
    answer_form=AnswerForm.NUMBER,
    parse=parse,
    layouts=within("", "data/"),
    configs=("default",),
    variants=GSM8K.variants,
)
