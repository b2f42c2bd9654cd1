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
from typing import Literal

from hpcmaf.tasks.base import PromptSet

_SUMMARIZE = (
    "Other agents have each written a solution to the problem below. Summarise their solutions: which final "
    "answers they reach, how many of them reach each, by which steps, and where they contradict one another. "
    "Report only what they wrote; do not solve the problem yourself and do not add an answer of your own."
)
_UPDATE = (
    "Go through your own solution and through theirs step by step, find the mistakes in either, and then give "
    "your updated solution. Keep your answer where it stands up, and change it where it does not."
)
_ADVICE = "additional advice."
_INTEGRATE = (
    "Work together with them: take up what is sound in their solutions, bring it together with your own, and give "
    "one joint solution that builds on all of them."
)
_ROLES = {
    "generator": ("GEN", "a generation agent: you write the first solution of a problem on your own"),
    "critic": ("CRIT", "a critic agent: you examine the solutions that have been given and improve your own"),
}


@dataclass(frozen=True, slots=True)
class ChatPrompts(PromptSet):
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
        return self._after_summary(
            question, summary, f"Take the summary of their solutions below as {_ADVICE} {_UPDATE}"
        )

    def update_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """The same with the others' answers themselves."""
        return self._after_answers(question, answers, f"Take their solutions below as {_ADVICE} {_UPDATE}")

    def integrate(self, question: str, summary: str) -> str:
        """The same as ``update``, asking for a joint solution."""
        return self._after_summary(question, summary, f"A summary of their solutions is below. {_INTEGRATE}")

    def integrate_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """The same with the others' answers themselves."""
        return self._after_answers(question, answers, f"Their solutions are below. {_INTEGRATE}")

    def named(self, role: Literal["generator", "critic"], agent: int, text: str) -> str:
        """The ID, numbered from 1, and the role before the prompt."""
        mark, about = _ROLES[role]
        return f"You are {mark}{agent + 1}, {about}.\n\n{text}"

    def hint(self, question: str, answer: str) -> str:
        """The first prompt, then the answer to work towards."""
        return (
            f"{self.first(question)}\n\nHint: the correct final answer is {answer}. Write the solution that leads to it, "
            "as if you had not been told."
        )

    def _after_summary(self, question: str, summary: str, what: str) -> str:
        return (
            f"The problem was:\n{question}\n\nOther agents have worked on it too. {what} {self.ending}"
            f"\n\nSummary of the other solutions:\n{summary}"
        )

    def _after_answers(self, question: str, answers: Sequence[str], what: str) -> str:
        return (
            f"The problem was:\n{question}\n\nOther agents have worked on it too. {what} {self.ending}"
            f"\n\n{_numbered(answers)}"
        )


def _numbered(answers: Sequence[str]) -> str:
    return "\n\n".join(f"Solution {number}:\n{answer}" for number, answer in enumerate(answers, start=1))
