"""Multiple choice: MMLU, MMLU-Pro, ARC and GPQA. Choices are part of the question, and the answer is one letter.

MMLU and MMLU-Pro have no training split of their own questions: ``dev``, ``val`` or ``validation`` train, ``test``
evaluates (see :func:`hpcmaf.tasks.splits.roles`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem, question_hash
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import shipped

LETTERS = "ABCDEFGHIJ"


def mmlu(row: Row) -> Problem:
    """One problem of MMLU, from the official CSV or a row with ``choices``."""
    subject = str(row.values.get("subject") or row.group or "")
    if "0" in row.values:
        cells, subject = list(row.values.values()), row.file.removesuffix(f"_{row.split}")
        values = {"question": cells[0], "choices": cells[1:-1], "answer": cells[-1]}
        row = replace(row, values=values, group=subject)
    choices = _choices(row, row.values.get("choices"), [4])
    return _problem(row, row.id("mmlu", "id"), row.text("question"), choices, row.text("answer"), subject)


def mmlu_pro(row: Row) -> Problem:
    """One problem of MMLU-Pro, of up to ten choices."""
    subject = row.text("category") if row.first_of("category") else row.group
    choices, answer = _choices(row, row.values.get("options"), range(2, 11)), row.text("answer", "answer_index")
    return _problem(row, row.id("mmlu-pro", "question_id"), row.text("question"), choices, answer, subject)


def arc(row: Row) -> Problem:
    """One problem of ARC, from the official lines or the hub's rows; some of its choices are numbered from 1."""
    question, choices = row.values.get("question"), row.values.get("choices")
    if isinstance(question, Mapping):
        question, choices = question.get("stem"), question.get("choices")
    if isinstance(choices, list) and all(isinstance(one, Mapping) for one in choices):
        choices = {key: [one.get(key) for one in choices] for key in ("text", "label")}
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    if not isinstance(choices, Mapping) or not isinstance(labels, list) or not isinstance(question, str):
        raise DataError(f"{row.where}: no question with 'text' and 'label' of its choices; is this ARC's own form?")
    texts = _choices(row, choices.get("text"), range(2, 6))
    key = row.text("answerKey")
    if key not in labels or len(labels) != len(texts):
        raise DataError(f"{row.where}: answerKey {key[:20]!r} is none of its labels; repair it")
    return _problem(row, f"arc-{row.text('id')}", question.strip(), texts, LETTERS[labels.index(key)])


def gpqa(row: Row) -> Problem:
    """One problem of GPQA, whose files have the right choice first; their order is drawn from the question alone."""
    question, right = row.text("Question"), row.text("Correct Answer")
    choices = [right, *(row.text(f"Incorrect Answer {n}") for n in (1, 2, 3))]
    # Only random() is promised to give the same numbers in every Python.
    uniform = random.Random(question_hash(question)).random
    order = sorted(range(4), key=lambda _: uniform())
    subject = row.text("High-level domain") if row.first_of("High-level domain") else ""
    answer = LETTERS[order.index(0)]
    return _problem(row, row.id("gpqa", "Record ID"), question, [choices[n] for n in order], answer, subject)


def _choices(row: Row, found: Any, counts: Sequence[int]) -> list[str]:
    """The choices in order, from a list or a mapping by letter; as many as one of ``counts``, and none empty."""
    if isinstance(found, Mapping):
        letters = LETTERS[: len(found)]
        found = [found[letter] for letter in letters] if found.keys() == set(letters) else None
    if not isinstance(found, list) or len(found) not in counts:
        wanted = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        raise DataError(f"{row.where}: its choices are not {wanted}, from A on; repair or remove the record")
    if any(choice is None or not str(choice).strip() for choice in found):
        raise DataError(f"{row.where}: one of its choices is empty; repair or remove the record")
    return [str(choice).strip() for choice in found]


def _problem(row: Row, id: str, question: str, choices: Sequence[str], answer: str, subject: str = "") -> Problem:
    """A problem of choices; ``answer`` is a letter, or an index from 0."""
    letters = LETTERS[: len(choices)]
    answer = answer.upper()
    if answer.isdecimal() and int(answer) < len(letters):
        answer = letters[int(answer)]
    if len(answer) != 1 or answer not in letters:
        known = f"a letter A to {letters[-1]} nor its index from 0"
        raise DataError(f"{row.where}: answer {answer[:20]!r} is neither {known}; repair it")
    lines = [f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
    return Problem(id, "\n".join([question, *lines]), answer, {"subject": subject} if subject else {})


TASKS = {
    "mmlu": shipped(mmlu, AnswerForm.LETTER, configs=("all",)),
    "mmlu-pro": shipped(mmlu_pro, AnswerForm.LETTER, "choices"),
    "arc": shipped(arc, AnswerForm.LETTER, "choices", configs=("ARC-Challenge",)),  # the harder set
    "gpqa": shipped(gpqa, AnswerForm.LETTER, "choices", configs=("gpqa_diamond",)),
}
