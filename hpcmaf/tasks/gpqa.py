"""GPQA: four choices, of which its files have the right one first; here their order is drawn from the question."""

from __future__ import annotations

import random

from hpcmaf.tasks.choices import LETTERS, choice_problem, choice_task
from hpcmaf.tasks.problems import Problem, question_hash
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import within


def parse(row: Row) -> Problem:
    """One problem; the same order of choices in every run and on every machine."""
    question, right = row.text("Question"), row.text("Correct Answer")
    choices = [right, *(row.text(f"Incorrect Answer {n}") for n in (1, 2, 3))]
    # Only random() is promised to give the same numbers in every Python.
    uniform = random.Random(question_hash(question)).random
    order = sorted(range(4), key=lambda _: uniform())
    subject = row.text("High-level domain") if row.first_of("High-level domain") else ""
    return choice_problem(
        row,
        f"gpqa-{row.text('Record ID')}" if row.first_of("Record ID") else row.position_id("gpqa"),
        question,
        [choices[n] for n in order],
        LETTERS[order.index(0)],
        {"subject": subject} if subject else {},
    )


TASK = choice_task("gpqa", parse=parse, layouts=within("", "data/"), configs=("gpqa_diamond",))
