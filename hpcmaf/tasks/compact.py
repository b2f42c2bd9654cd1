"""Prompts of the arithmetic task in the characters of the packaged micro model.

The micro model reads 30 characters and no words, so what a debate says to it is reduced to marks: ``=`` asks for a
first answer, ``|`` stands before another agent's answer, ``~`` before a summary. The corpus that model is made from is
rendered through this very class (see ``results/micro_model`` in the repository).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from hpcmaf.errors import ConfigError, DataError
from hpcmaf.tasks.prompts import PromptSet

_EXPRESSION = re.compile(r"\d+(?:\s*[-+*]\s*\d+)+")


def expression_of(question: str) -> str:
    """The arithmetic expression in a question, without spaces.

    Raises
    ------
    DataError
        The question holds no expression of integers, ``+``, ``-`` and ``*``.
    """
    if (match := _EXPRESSION.search(question)) is None:
        raise DataError(
            f"the compact prompts found no arithmetic expression in the question {question[:60]!r}; "
            "use task.prompts: default for questions in words"
        )
    return re.sub(r"\s", "", match.group())


def _refuse(*_: Any) -> NoReturn:
    """Refuse: marks cannot name agents, nor tell them how to treat one another."""
    raise ConfigError(
        "method: the compact prompts have no words for roles, IDs, cooperation or a judge; leave these out, or use "
        "task.prompts: default and a model that reads words"
    )


@dataclass(frozen=True)
class CompactPrompts(PromptSet):
    """Prompts that the micro model understands.

    Attributes
    ----------
    expression
        Finds the expression that a question comes to.
    """

    expression: Callable[[str], str] = expression_of
    integrate = integrate_without_summary = named = judge = _refuse

    def first(self, question: str) -> str:
        """``12+3*4+5-6*7=``."""
        return self.expression(question) + "="

    def summarize(self, question: str, answers: Sequence[str]) -> str:
        """The expression, then the others' answers, each behind a ``|``."""
        return self.expression(question) + "|" + "|".join(answers)

    def update(self, question: str, summary: str) -> str:
        """The summary behind a ``~``; the question stands in the chat's first turn."""
        return "~" + summary

    def update_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """The others' answers, each behind a ``|``."""
        return "|" + "|".join(answers)

    def hint(self, question: str, answer: str) -> str:
        """The question once more: no mark says that an answer is right, so the hint is left out."""
        return self.first(question)
