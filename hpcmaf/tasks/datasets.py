"""Data sets: GSM8K, SVAMP, MATH, AIME and AMC, your own JSON lines, and the multiple choice of MMLU, ARC and GPQA."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.answers.extract import last_box
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem, question_hash
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import shipped

LETTERS = "ABCDEFGHIJ"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# "Level 3", 3, "MATH-Level3"; a few official problems are of "Level ?".
_LEVEL = re.compile(r"(?:^|level[\s_-]*)([1-5?])$", re.IGNORECASE)
# AIME fills up to three digits; a table of numbers makes decimals of them.
_WHOLE = re.compile(r"0*(\d+?)(?:\.0)?")


def gsm8k(row: Row) -> Problem:
    """One problem of GSM8K; its id is the position in the official file, its gold answer the number after ``####``."""
    question, (_, mark, tail) = row.text("question"), row.text("answer").rpartition("####")
    number = tail.strip().replace(",", "").removeprefix("$")
    if not mark or not _NUMBER.fullmatch(number):
        raise DataError(f"{row.where}: no number after '####' in 'answer'; is this GSM8K's own form?")
    return Problem(f"gsm8k-{row.split}-{row.index:05d}", question, number)


def svamp(row: Row) -> Problem:
    """One problem of SVAMP: a one-step story, and the question about it."""
    story = f"{row.text('Body').rstrip('.')}. {row.text('Question')}"
    return Problem(row.id("svamp", "ID"), story, row.text("Answer").removesuffix(".0"))


def aime(row: Row) -> Problem:
    """One problem of AIME or AMC, under the names that their collections have for problem and answer."""
    answer = row.text("answer", "Answer")
    if (whole := _WHOLE.fullmatch(answer)) is None:
        raise DataError(f"{row.where}: answer {answer[:20]!r} is no whole number; repair or remove the record")
    return Problem(row.id("aime", "id", "ID"), row.text("problem", "Problem", "question", "Question"), whole[1])


def math(row: Row) -> Problem:
    """One problem of MATH, from any of the forms it is passed around in."""
    subject = str(row.values.get("type") or row.values.get("subject") or row.group or "").strip()
    key = row.first_of("unique_id", "id")
    meta = {"level": _level(row), "subject": subject}
    return Problem(
        # train/algebra/12.json: the file's name is the problem's number.
        id=row.text(key) if key else row.position_id("math", row.file if row.file.isdecimal() else ""),
        question=row.text("problem", "question", "prompt"),
        gold=_math_gold(row),
        meta={key: value for key, value in meta.items() if value},
    )


def _math_gold(row: Row) -> str | None:
    # A few answers and boxes of the data set are empty. Such problems can still train, where gold is never read.
    empty = row.first_of("answer") is not None and not str(row.values["answer"]).strip()
    if row.first_of("answer", "solution") == "answer":
        return None if empty else row.text("answer")
    found, content = last_box(row.text("solution"))
    if (not found or content is None) and not empty:
        raise DataError(f"{row.where}: no complete \\boxed{{...}} in 'solution'; add one or an 'answer'")
    return content or None


def _level(row: Row) -> str | None:
    """``"1"`` to ``"5"``, ``"?"``, or ``None`` where the source names no level."""
    key = row.first_of("level")
    match = _LEVEL.search(str(row.values[key or "source"]).strip()) if key or "source" in row.values else None
    if key and match is None:
        raise DataError(f"{row.where}: level {row.values[key]!r} is none of MATH's; write 'Level 1' to 'Level 5'")
    return match[1] if match else None


def jsonl(row: Row) -> Problem:
    """One problem of your own: ``question`` and, optionally, ``answer`` (to train), ``id``, ``level``, ``subject``."""
    question = row.text("question")
    answered = row.first_of("answer") is not None
    if not answered and (key := row.first_of("gold", "solution", "output")) is not None:
        # Reading it as an unanswered question would hide a misnamed key.
        raise DataError(f"{row.where}: has '{key}' but no 'answer'; rename the key")
    if not answered and row.split == "test":
        raise DataError(f"{row.where}: no 'answer', which a test problem needs; add it or move it to train.jsonl")
    gold = row.text("answer") if answered else None
    content = json.dumps([question, gold]).encode()
    return Problem(
        id=row.text("id") if row.first_of("id") else f"jsonl-{hashlib.sha256(content).hexdigest()[:16]}",
        question=question,
        gold=gold,
        meta={key: row.text(key) for key in ("level", "subject") if row.first_of(key)},
    )


# --- multiple choice ---


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
    "gsm8k": shipped(gsm8k, AnswerForm.NUMBER, "story", configs=("main",)),
    "svamp": shipped(svamp, AnswerForm.NUMBER, "story"),
    "math": shipped(math, AnswerForm.BOXED, levels=(1, 2, 3)),
    "aime": shipped(aime, AnswerForm.BOXED),
    "jsonl": shipped(jsonl, AnswerForm.BOXED),
    "mmlu": shipped(mmlu, AnswerForm.LETTER, configs=("all",)),
    "mmlu-pro": shipped(mmlu_pro, AnswerForm.LETTER, "choices"),
    "arc": shipped(arc, AnswerForm.LETTER, "choices", configs=("ARC-Challenge",)),  # the harder set
    "gpqa": shipped(gpqa, AnswerForm.LETTER, "choices", configs=("gpqa_diamond",)),
}
