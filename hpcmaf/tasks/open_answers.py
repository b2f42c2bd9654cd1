"""Tasks whose answers are written out: GSM8K, SVAMP, MATH, AIME and AMC, and problems of your own as JSON lines."""

from __future__ import annotations

import hashlib
import json
import re

from hpcmaf.answers import AnswerForm
from hpcmaf.answers.extract import last_box
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import shipped

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


TASKS = {
    "gsm8k": shipped(gsm8k, AnswerForm.NUMBER, "story", configs=("main",)),
    "svamp": shipped(svamp, AnswerForm.NUMBER, "story"),
    "math": shipped(math, AnswerForm.BOXED, levels=(1, 2, 3)),
    "aime": shipped(aime, AnswerForm.BOXED),
    "jsonl": shipped(jsonl, AnswerForm.BOXED),
}
