"""MMLU: four choices, one letter.

It has no training split of its own questions: ``dev`` and ``val`` train,
``test`` evaluates (see :func:`hpcmaf.tasks.splits.assign_roles`).
"""

from __future__ import annotations

from collections.abc import Mapping

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.base import Problem
from hpcmaf.tasks.files import Files
from hpcmaf.tasks.layouts import within
from hpcmaf.tasks.prompts import ChatPrompts
from hpcmaf.tasks.rows import Row
from hpcmaf.tasks.task import Task, Variant

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
    answer = row.text("answer")
    if answer.upper() in LETTERS and len(answer) == 1:
        return answer.upper()
    if answer in ("0", "1", "2", "3"):
        return LETTERS[int(answer)]
    raise DataError(f"{row.where}: answer {answer[:20]!r} is neither a letter A to D nor an index 0 to 3; repair it")


def render(question: str, choices: list[str]) -> str:
    """The question as it is asked and hashed: its text, then one choice per line."""
    lines = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "\n".join([question, *lines])


def parse(row: Row) -> Problem:
    """One problem, from the official CSV or a row with ``choices``."""
    subject = str(row.values.get("subject") or row.group or "")
    if "0" in row.values:
        row, subject = _from_csv(row)
    if (key := row.first_of("id")) is not None:
        name = f"mmlu-{row.text(key)}"
    else:
        # Hub rows name their subject but are numbered over the whole split.
        name = "-".join(part for part in ("mmlu", row.split, row.group, f"{row.index:05d}") if part)
    return Problem(
        id=name,
        question=render(row.text("question"), choices_of(row)),
        gold=letter_of(row),
        meta={"subject": subject} if subject else {},
    )


def _from_csv(row: Row) -> tuple[Row, str]:
    if len(row.values) != 6:
        raise DataError(
            f"{row.where}: {len(row.values)} columns where MMLU has six (question, A, B, C, D, answer); repair it"
        )
    question, *choices, answer = row.values.values()
    subject = row.file.removesuffix(f"_{row.split}")
    values = {"question": question, "choices": choices, "answer": answer}
    return Row(row.where, values, row.split, row.file, subject, row.index), subject


def _prompts() -> ChatPrompts:
    return ChatPrompts(
        instruction="Answer the multiple-choice question below. Reason step by step and weigh each of the choices.",
        ending="End with one line of the form Answer: (X), where X is one of the letters A, B, C and D.",
    )


TASK = Task(
    name="mmlu",
    supply=Files(
        "mmlu",
        parse,
        ("{split}/*_{split}.csv", "data/{split}/*_{split}.csv", *within("", "all/", "data/", "default/", "*/")),
        ("all",),
    ),
    variants={"default": Variant(_prompts, AnswerForm.LETTER)},
)
