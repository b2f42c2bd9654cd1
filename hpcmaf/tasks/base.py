"""What a problem is, and what a task has to bring."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """One question, with its gold answer where one is known.

    ``gold`` is for evaluation alone: nothing between a debate and a training
    set reads it.
    """

    id: str
    question: str
    gold: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


# Compatibility forms that change what is meant: a power is no factor, and a half no digits.
_OWN_MEANING = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>")


def question_hash(question: str) -> str:
    """Hash of a question that case, spacing and Unicode form do not change.

    Wide letters, ligatures and mathematical alphabets are what they look
    like; superscripts, subscripts and fractions stay what they are.
    """
    whole = unicodedata.normalize("NFC", question)
    if not whole.isascii():
        whole = "".join(
            char if unicodedata.decomposition(char).startswith(_OWN_MEANING) else unicodedata.normalize("NFKC", char)
            for char in whole
        )
    folded = " ".join(unicodedata.normalize("NFC", whole.casefold()).split())
    return hashlib.sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()


# What a prompt is for: an agent's first answer, a summary, an agent's updated answer.
Kind = Literal["first", "summarize", "update"]


class PromptSet:
    """The user messages of a debate (paper, appendix on prompts), as text.

    A base class: a task's prompts define those messages that its debates have.
    """

    def for_agent(self, n: int, N: int) -> PromptSet:
        """The prompts of agent ``n`` of ``N``, counted from 1, where they differ between agents."""
        return self

    def opening(self, kind: Kind) -> tuple[Mapping[str, str], ...]:
        """Turns before a prompt, such as a system message or worked examples, with keys ``role`` and ``content``."""
        return ()

    def first(self, question: str) -> str:
        """What a generation agent is asked in round 1."""
        raise NotImplementedError

    def summarize(self, question: str, answers: Sequence[str]) -> str:
        """What the summarizer is asked about the *other* agents' answers."""
        raise NotImplementedError

    def update(self, question: str, summary: str) -> str:
        """What a critic agent is asked in rounds 2..M, given a summary."""
        raise NotImplementedError

    def update_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """The same with the others' answers themselves (``maft-no-summary``)."""
        raise NotImplementedError

    def integrate(self, question: str, summary: str) -> str:
        """Like ``update``, for agents that cooperate instead of disputing (``cooperative``)."""
        raise NotImplementedError

    def integrate_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """Like ``update_without_summary``, for agents that cooperate."""
        raise NotImplementedError

    def named(self, role: Literal["generator", "critic"], agent: int, text: str) -> str:
        """A prompt that begins with the agent's ID and role (``unique-id``)."""
        raise NotImplementedError

    def hint(self, question: str, answer: str) -> str:
        """The question with its gold answer as a hint (``star``)."""
        raise NotImplementedError
