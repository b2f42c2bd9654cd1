"""MATH: competition problems of levels 1 to 5 with LaTeX answers."""

from __future__ import annotations

import re

from hpcmaf.answers import AnswerForm, last_box
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files, within

# "Level 3", 3, "MATH-Level3"; a few official problems are of "Level ?".
_LEVEL = re.compile(r"(?:^|level[\s_-]*)([1-5?])$", re.IGNORECASE)


def gold_of(row: Row) -> str | None:
    r"""The answer where the source has one that is not empty, else the solution's last ``\boxed``.

    To have neither is no error where there is an empty answer or box: the data set has a few, and such a problem can still
    train, where gold is never read. It gets ``None``.

    Raises
    ------
    DataError
        The answer is not text, or there is none and the solution has no box, or one that never closes.
    """
    empty = row.first_of("answer") is not None and not str(row.values["answer"]).strip()
    if row.first_of("answer", "solution") == "answer":
        return None if empty else row.text("answer")
    found, content = last_box(row.text("solution"))
    if (not found or content is None) and not empty:
        raise DataError(f"{row.where}: no complete \\boxed{{...}} in 'solution'; add one or an 'answer'")
    return content or None


def level_of(row: Row) -> str | None:
    """``"1"`` to ``"5"``, ``"?"``, or ``None`` where the source names no level."""
    key = row.first_of("level")
    match = _LEVEL.search(str(row.values[key or "source"]).strip()) if key or "source" in row.values else None
    if key and match is None:
        raise DataError(f"{row.where}: level {row.values[key]!r} is none of MATH's; write 'Level 1' to 'Level 5'")
    return match[1] if match else None


def parse(row: Row) -> Problem:
    """One problem, from any of the forms MATH is passed around in."""
    subject = str(row.values.get("type") or row.values.get("subject") or row.group or "").strip()
    key = row.first_of("unique_id", "id")
    meta = {"level": level_of(row), "subject": subject}
    return Problem(
        # train/algebra/12.json: the file's name is the problem's number.
        id=row.text(key) if key else row.position_id("math", row.file if row.file.isdecimal() else ""),
        question=row.text("problem", "question", "prompt"),
        gold=gold_of(row),
        meta={key: value for key, value in meta.items() if value},
    )


TASK = Files(
    name="math",
    answer_form=AnswerForm.BOXED,
    parse=parse,
    layouts=("{split}/*/*.json", "MATH/{split}/*/*.json", *within("", "data/", "default/", "*/")),
    levels=(1, 2, 3),
    variants={
        "default": PromptSet(
            instruction="Solve the mathematics problem below. Reason step by step and justify each step briefly.",
            ending="End with one line that gives the final answer in its simplest form, as Answer: \\boxed{...}.",
        )
    },
)
