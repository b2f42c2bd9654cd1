"""MMLU: four choices, one letter.

It has no training split of its own questions: ``dev`` and ``val`` train,
``test`` evaluates (see :func:`hpcmaf.tasks.splits.assign_roles`).
"""

from __future__ import annotations

from dataclasses import replace

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.choices import choice_problem, choices_of
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files, within


def parse(row: Row) -> Problem:
    """One problem, from the official CSV or a row with ``choices``; choices are part of the question."""
    subject = str(row.values.get("subject") or row.group or "")
    if "0" in row.values:
        if len(row.values) != 6:
            raise DataError(
                f"{row.where}: {len(row.values)} columns where MMLU has six (question, A, B, C, D, answer); repair it"
            )
        question, *choices, answer = row.values.values()
        subject = row.file.removesuffix(f"_{row.split}")
        row = replace(row, values={"question": question, "choices": choices, "answer": answer}, group=subject)
    return choice_problem(
        row,
        # Hub rows name their subject but are numbered over the whole split.
        f"mmlu-{row.text('id')}" if row.first_of("id") else row.position_id("mmlu"),
        row.text("question"),
        choices_of(row, row.values.get("choices"), [4]),
        row.text("answer"),
        {"subject": subject} if subject else {},
    )


TASK = Files(
    name="mmlu",
    answer_form=AnswerForm.LETTER,
    parse=parse,
    layouts=("{split}/*_{split}.csv", "data/{split}/*_{split}.csv", *within("", "all/", "data/", "default/", "*/")),
    configs=("all",),
    variants={
        "default": PromptSet(
            instruction="Answer the multiple-choice question below. Reason step by step and weigh each of the choices.",
            ending="End with one line of the form Answer: (X), where X is one of the letters A, B, C and D.",
        )
    },
)
