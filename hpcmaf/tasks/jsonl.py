"""Your own problems: one JSON object per line with ``question`` and ``answer``.

Training questions may lack ``answer``; the method never reads it. Optional
keys: ``id``, ``level``, ``subject``.
"""

from __future__ import annotations

import hashlib
import json

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files, within


def parse(row: Row) -> Problem:
    """One problem; without an ``id`` it is known by its content's hash."""
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


TASK = Files(
    name="jsonl",
    answer_form=AnswerForm.BOXED,
    parse=parse,
    layouts=within("", "data/", "default/"),
    variants={
        "default": PromptSet(
            instruction="Solve the problem below. Reason step by step.",
            ending="End with one line that gives the final answer alone, as Answer: \\boxed{...}.",
        )
    },
)
