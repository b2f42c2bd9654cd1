"""MMLU-Pro: up to ten choices, one letter.

Like MMLU it has no training split: its 70 ``validation`` questions train, ``test`` evaluates.
"""

from __future__ import annotations

from hpcmaf.tasks.choices import choice_problem, choice_task, choices_of
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import within


def parse(row: Row) -> Problem:
    """One problem; short lists are filled up with ``N/A`` in some copies."""
    options = row.values.get("options")
    if isinstance(options, list):
        options = [option for option in options if str(option).strip() != "N/A"]
    subject = row.text("category") if row.first_of("category") else row.group
    return choice_problem(
        row,
        f"mmlu-pro-{row.text('question_id')}" if row.first_of("question_id") else row.position_id("mmlu-pro"),
        row.text("question"),
        choices_of(row, options, range(2, 11)),
        row.text("answer", "answer_index"),
        {"subject": subject} if subject else {},
    )


TASK = choice_task("mmlu-pro", parse=parse, layouts=within("", "data/", "default/"), configs=("default",))
