"""What multiple-choice tasks have in common: up to ten choices, which are part of the question, and one letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import Files

LETTERS = "ABCDEFGHIJ"


def choices_of(row: Row, found: Any, counts: Sequence[int]) -> list[str]:
    """The choices in order, from a list or a mapping by letter.

    Raises
    ------
    DataError
        There are not as many as one of ``counts``, or one is empty.
    """
    if isinstance(found, Mapping):
        letters = LETTERS[: len(found)]
        found = [found[letter] for letter in letters] if found.keys() == set(letters) else None
    if not isinstance(found, list) or len(found) not in counts:
        wanted = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        raise DataError(f"{row.where}: its choices are not {wanted}, from A on; repair or remove the record")
    # "None" and "" are choices that have been seen to go missing in CSVs.
    if any(choice is None or not str(choice).strip() for choice in found):
        raise DataError(f"{row.where}: one of its choices is empty; repair or remove the record")
    return [str(choice).strip() for choice in found]


def choice_problem(
    row: Row, id: str, question: str, choices: Sequence[str], answer: str, meta: Mapping[str, str] | None = None
) -> Problem:
    """A problem of choices.

    Parameters
    ----------
    answer
        Its letter, or its index from 0.

    Raises
    ------
    DataError
        The answer is none of the choices.
    """
    letters = LETTERS[: len(choices)]
    answer = answer.upper()
    if answer.isdecimal() and int(answer) < len(letters):
        answer = letters[int(answer)]
    if len(answer) != 1 or answer not in letters:
        last = len(letters) - 1
        raise DataError(
            f"{row.where}: answer {answer[:20]!r} is neither a letter A to {letters[last]} nor an index 0 to {last}; "
            "repair it"
        )
    lines = [f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
    return Problem(id, "\n".join([question, *lines]), answer, meta or {})


def choice_task(name: str, **settings: Any) -> Files:
    """A :class:`Files` that asks for a letter."""
    prompts = PromptSet(
        instruction="Answer the multiple-choice question below. Reason step by step and weigh each of the choices.",
        ending="End with one line of the form Answer: (X), where X is the letter of one of the choices.",
    )
    return Files(name=name, answer_form=AnswerForm.LETTER, variants={"default": prompts}, **settings)
