"""ARC: school science, three to five choices, one letter; the harder set by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcmaf.errors import DataError
from hpcmaf.tasks.choices import LETTERS, choice_problem, choice_task, choices_of
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import within


def parse(row: Row) -> Problem:
    """One problem, from the official lines or the hub's rows; some of its choices are numbered from 1."""
    whole, choices = row.values.get("question"), row.values.get("choices")
    question: Any = whole
    if isinstance(whole, Mapping):
        question, choices = whole.get("stem"), whole.get("choices")
    if isinstance(choices, list) and all(isinstance(one, Mapping) for one in choices):
        choices = {key: [one.get(key) for one in choices] for key in ("text", "label")}
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    if not isinstance(choices, Mapping) or not isinstance(labels, list) or not isinstance(question, str):
        raise DataError(f"{row.where}: no question with 'text' and 'label' of its choices; is this ARC's own form?")
    texts = choices_of(row, choices.get("text"), range(2, 6))
    key = row.text("answerKey")
    if key not in labels or len(labels) != len(texts):
        raise DataError(f"{row.where}: answerKey {key[:20]!r} is none of its labels; repair it")
    return choice_problem(row, f"arc-{row.text('id')}", question.strip(), texts, LETTERS[labels.index(key)])


TASK = choice_task(
    "arc",
    parse=parse,
    layouts=("*-{Split}.jsonl", "ARC-Challenge/*-{Split}.jsonl", *within("", "ARC-Challenge/", "data/")),
    configs=("ARC-Challenge",),
)
