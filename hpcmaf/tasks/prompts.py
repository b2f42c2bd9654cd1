"""Prompts of a debate in plain words, for models that follow instructions.

They follow the paper's scheme (appendix on prompts): a first answer; a
summary of what the other agents said; an updated answer that takes the
summary as advice. What is common to many requests stands first - the
instruction, then the question, then what differs per agent - so that an
engine's prefix cache serves all agents of a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SUMMARIZE = (
    "Other agents have each written a solution to the problem below. Summarise their solutions: which final "
    "answers they reach, how many of them reach each, by which steps, and where they contradict one another. "
    "Report only what they wrote; do not solve the problem yourself and do not add an answer of your own."
)
_UPDATE = (
    "Go through your own solution and through theirs step by step, find the mistakes in either, and then give "
    "your updated solution. Keep your answer where it stands up, and change it where it does not."
)


@dataclass(frozen=True, slots=True)
class ChatPrompts:
    """A :class:`hpcmaf.tasks.base.PromptSet` for one kind of problem.

    Attributes
    ----------
    instruction
        What to do with the question.
    ending
        In what form to give the final answer; must be one that
        :func:`hpcmaf.answers.extract` finds.
    """

    instruction: str
    ending: str

    def first(self, question: str) -> str:
        """Instruction, form of the answer, question."""
        return f"{self.instruction} {self.ending}\n\nProblem:\n{question}"

    def summarize(self, question: str, answers: Sequence[str]) -> str:
        """Instruction, question, then the others' answers, numbered from 1."""
        return f"{_SUMMARIZE}\n\nProblem:\n{question}\n\n{_numbered(answers)}\n\nWrite the summary now."

    def update(self, question: str, summary: str) -> str:
        """The question again, what to do, then the summary."""
        return (
            f"The problem was:\n{question}\n\nOther agents have worked on it too. Take the summary of their solutions "
            f"below as additional advice. {_UPDATE} {self.ending}\n\nSummary of the other solutions:\n{summary}"
        )

    def update_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """The same with the others' answers themselves."""
        return (
            f"The problem was:\n{question}\n\nOther agents have worked on it too. Take their solutions below as "
            f"additional advice. {_UPDATE} {self.ending}\n\n{_numbered(answers)}"
        )


def _numbered(answers: Sequence[str]) -> str:
    return "\n\n".join(f"Solution {number}:\n{answer}" for number, answer in enumerate(answers, start=1))
