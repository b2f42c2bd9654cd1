"""What agents read: the messages of a debate, as jinja2 templates in the folder ``templates``, one folder per task.

They follow the paper's scheme (appendix on prompts): a first answer; a summary of what the other agents said; an
updated answer that takes the summary as advice. What is common to many requests stands first - the instruction, then
the question, then what differs per agent - so that an engine's prefix cache serves all agents of a problem.

``compact`` is for the packaged micro model, which reads 30 characters and no words: what a debate says to it is reduced
to marks. ``=`` asks for a first answer, ``|`` stands before another agent's answer, ``~`` before a summary. The corpus
that the model is made from is rendered from these templates, too (see ``results/micro_model`` in the repository).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hpcmaf.errors import ConfigError, DataError

# What a prompt is for: an agent's first answer, a summary, an agent's updated answer.
Kind = Literal["first", "summarize", "update"]
# Template to what it shows beside the question.
SHOWN: Mapping[str, str | None] = {
    "first": None,
    "summarize": "answers",
    "update": "summary",
    "update_without_summary": "answers",
    "integrate": "summary",
    "integrate_without_summary": "answers",
    "hint": "answer",
    "judge": "answers",
}
_EXPRESSION = re.compile(r"\d+(?:\s*[-+*]\s*\d+)+")


@cache
def shipped(name: str) -> Mapping[str, str]:
    """Templates of a folder, by name."""
    folder = Path(__file__).parent / "templates" / name
    return {path.stem: path.read_text("utf-8").removesuffix("\n") for path in sorted(folder.glob("*.jinja"))}


@dataclass(frozen=True)
class PromptSet:
    """The messages of a debate, by default in plain words for models that follow instructions.

    Attributes
    ----------
    instruction
        What to do with the question.
    ending
        In what form to give the final answer; must be one that :func:`hpcmaf.answers.extract` finds.
    templates
        Those of ``SHOWN``, over ``question``, what each shows, ``instruction``, ``ending``, the agent's number ``n``
        and ``N``; ``generator`` and ``critic`` give an agent's ID and role.
    openings
        Turns before a kind of prompt, such as a system message or worked examples, with keys ``role`` and ``content``.
    question
        What prompts make of a problem's question; nothing, by default.
    """

    instruction: str = ""
    ending: str = ""
    templates: Mapping[str, str] = field(default_factory=lambda: shipped("default"))
    openings: Mapping[Kind, tuple[Mapping[str, str], ...]] = field(default_factory=dict)
    question: Callable[[str], str] = str

    def render(self, name: str, question: str, shown: str | Sequence[str] = "", n: int = 1, N: int = 1) -> str:
        """A prompt.

        Parameters
        ----------
        name
            Of its template.
        shown
            What it shows beside the question: a summary, others' answers, or the gold one.
        n, N
            The agent's number, from 1, and how many there are.

        Raises
        ------
        ConfigError
            There is no such template, or it cannot be rendered.
        """
        if name not in self.templates:
            raise ConfigError(
                "method: the compact prompts have no words for roles, IDs, cooperation or a judge; leave these out, or "
                "use task.prompts: default and a model that reads words"
            )
        values = {"question": self.question(question), "instruction": self.instruction, "ending": self.ending}
        if variable := SHOWN.get(name):
            values[variable] = shown  # type: ignore[assignment]
        try:
            return compiled(self.templates[name]).render(values, n=n, N=N)
        except Exception as error:  # a template may do whatever jinja2 knows
            raise ConfigError(f"task.prompts: {name}: cannot be rendered ({error}); mend the template") from error


@cache
def environment() -> Any:
    """Of jinja2, in which templates can do no harm, with the filter ``numbered`` for lists of answers."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    made.filters["numbered"] = lambda answers: "\n\n".join(f"Solution {n}:\n{one}" for n, one in enumerate(answers, 1))
    return made


@cache
def compiled(template: str) -> Any:
    """A template to be rendered."""
    return environment().from_string(template)


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


def task_prompts(name: str) -> PromptSet:
    """Prompts of the folder of a task, which has an instruction, an ending, and templates that differ from others'."""
    own = shipped(name)
    return PromptSet(own["instruction"], own["ending"], {**shipped("default"), **own})


def compact_prompts(expression: Callable[[str], str] = expression_of) -> PromptSet:
    """Prompts for the micro model; ``expression`` finds the one that a question comes to."""
    return PromptSet(templates=shipped("compact"), question=expression)
