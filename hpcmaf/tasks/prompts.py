"""What agents read: the messages of a debate.

They follow the paper's scheme (appendix on prompts): a first answer; a summary of what the other agents said; an
updated answer that takes the summary as advice. What is common to many requests stands first - the instruction, then
the question, then what differs per agent - so that an engine's prefix cache serves all agents of a problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from hpcmaf.errors import ConfigError, DataError

# What a prompt is for: an agent's first answer, a summary, an agent's updated answer.
Kind = Literal["first", "summarize", "update"]
Role = Literal["generator", "critic"]

_SUMMARIZE = (
    "Other agents have each written a solution to the problem below. Summarise their solutions: which final "
    "answers they reach, how many of them reach each, by which steps, and where they contradict one another. "
    "Report only what they wrote; do not solve the problem yourself and do not add an answer of your own."
)
_UPDATE = (
    "Go through your own solution and through theirs step by step, find the mistakes in either, and then give "
    "your updated solution. Keep your answer where it stands up, and change it where it does not."
)
_INTEGRATE = (
    "Work together with them: take up what is sound in their solutions, bring it together with your own, and give "
    "one joint solution that builds on all of them."
)
_JUDGE = (
    "Several agents have each solved the problem below. Compare their solutions step by step, decide whose final "
    "answer is right, and give that answer as yours. It must be one of theirs."
)
_EXPRESSION = re.compile(r"\d+(?:\s*[-+*]\s*\d+)+")
_ROLES = {
    "generator": ("GEN", "a generation agent: you write the first solution of a problem on your own"),
    "critic": ("CRIT", "a critic agent: you examine the solutions that have been given and improve your own"),
}


@dataclass(frozen=True)
class PromptSet:
    """The user messages of a debate, in plain words for models that follow instructions.

    Attributes
    ----------
    instruction
        What to do with the question.
    ending
        In what form to give the final answer; must be one that
        :func:`hpcmaf.answers.extract` finds.
    """

    instruction: str = ""
    ending: str = ""

    def for_agent(self, n: int, N: int) -> PromptSet:
        """The prompts of agent ``n`` of ``N``, counted from 1, where they differ between agents."""
        return self

    def opening(self, kind: Kind) -> tuple[Mapping[str, str], ...]:
        """Turns before a prompt, such as a system message or worked examples, with keys ``role`` and ``content``."""
        return ()

    def first(self, question: str) -> str:
        """The prompt of a generation agent in round 1."""
        return f"{self.instruction} {self.ending}\n\nProblem:\n{question}"

    def summarize(self, question: str, answers: Sequence[str]) -> str:
        """The summarizer's prompt about the *other* agents' answers, numbered from 1."""
        return f"{_SUMMARIZE}\n\nProblem:\n{question}\n\n{_numbered(answers)}\n\nWrite the summary now."

    def update(self, question: str, summary: str) -> str:
        """The prompt of a critic agent in rounds 2..M, given a summary."""
        what = f"Take the summary of their solutions below as additional advice. {_UPDATE}"
        return self._revise(question, what, f"Summary of the other solutions:\n{summary}")

    def update_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """The same with the others' answers themselves (``maft-no-summary``)."""
        what = f"Take their solutions below as additional advice. {_UPDATE}"
        return self._revise(question, what, _numbered(answers))

    def integrate(self, question: str, summary: str) -> str:
        """Like ``update``, for agents that cooperate instead of disputing (``cooperative``)."""
        what = f"A summary of their solutions is below. {_INTEGRATE}"
        return self._revise(question, what, f"Summary of the other solutions:\n{summary}")

    def integrate_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """Like ``update_without_summary``, for agents that cooperate."""
        return self._revise(question, f"Their solutions are below. {_INTEGRATE}", _numbered(answers))

    def judge(self, question: str, answers: Sequence[str]) -> str:
        """The prompt of the judge, who picks one of the last round's answers (``debate.aggregate``)."""
        return f"{_JUDGE} {self.ending}\n\nProblem:\n{question}\n\n{_numbered(answers)}"

    def named(self, role: Role, agent: int, text: str) -> str:
        """A prompt that begins with the agent's ID, numbered from 1, and role (``unique-id``)."""
        mark, about = _ROLES[role]
        return f"You are {mark}{agent + 1}, {about}.\n\n{text}"

    def hint(self, question: str, answer: str) -> str:
        """The first prompt, then the gold answer to work towards (``star``)."""
        return (
            f"{self.first(question)}\n\nHint: the correct final answer is {answer}. Write the solution that leads to "
            "it, as if you had not been told."
        )

    def _revise(self, question: str, what: str, others: str) -> str:
        return f"The problem was:\n{question}\n\nOther agents have worked on it too. {what} {self.ending}\n\n{others}"


def _numbered(answers: Sequence[str]) -> str:
    return "\n\n".join(f"Solution {number}:\n{answer}" for number, answer in enumerate(answers, start=1))


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
    """Prompts in the characters of the packaged micro model, which reads 30 of them and no words.

    What a debate says to it is reduced to marks: ``=`` asks for a first answer, ``|`` stands before another agent's
    answer, ``~`` before a summary. The corpus that the model is made from is rendered through this class, too (see
    ``results/micro_model`` in the repository).

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
