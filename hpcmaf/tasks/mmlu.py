"""MMLU: four choices, one letter.

It has no training split of its own questions: ``dev`` and ``val`` train,
``test`` evaluates (see :func:`hpcmaf.tasks.splits.assign_roles`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files, within

LETTERS = "ABCD"


def choices_of(row: Row) -> list[str]:
    """The four choices in order, from a list or a mapping by letter.

    Raises
    ------
    DataError
        There are not four, or one is empty.
    """
    found = row.values.get("choices")
    if isinstance(found, Mapping):
        found = [found.get(letter) for letter in LETTERS] if len(found) == len(LETTERS) else None
    if not isinstance(found, list) or len(found) != len(LETTERS):
        raise DataError(f"{row.where}: 'choices' are not four, A to D; repair or remove the record")
    # "None" and "" are choices that have been seen to go missing in CSVs.
    if any(choice is None or not str(choice).strip() for choice in found):
        raise DataError(f"{row.where}: one of its choices is empty; repair or remove the record")
    return [str(choice).strip() for choice in found]


def letter_of(row: Row) -> str:
    """The answer's letter, from a letter or a 0-based index.

    Raises
    ------
    DataError
        It is neither.
    """
    answer = row.text("answer").upper()
    if len(answer) != 1 or answer not in f"{LETTERS}0123":
        raise DataError(f"{row.where}: answer {answer[:20]!r} is neither a letter A to D nor an index 0 to 3; repair it")
    return LETTERS[int(answer)] if answer.isdecimal() else answer


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
    lines = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices_of(row), strict=True)]
    return Problem(
        # Hub rows name their subject but are numbered over the whole split.
        id=f"mmlu-{row.text('id')}" if row.first_of("id") else row.position_id("mmlu"),
        question="\n".join([row.text("question"), *lines]),
        gold=letter_of(row),
        meta={"subject": subject} if subject else {},
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
