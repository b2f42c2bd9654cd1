"""What agents read: the messages of a debate, as jinja2 templates in the folder ``templates``, one folder per task.

What is common to many requests stands first, so that an engine's prefix cache serves all agents of a problem.

``compact`` is for the packaged micro model, which reads 30 characters and no words: ``=`` asks for a first answer,
``|`` stands before another agent's answer, ``~`` before a summary. Its corpus is rendered from these templates, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from hpcmaf.errors import ConfigError, DataError
from hpcmaf.files.yaml import Strict, added

# What a prompt is for: an agent's first answer, a summary, an agent's updated answer.
Kind = Literal["first", "summarize", "update", "judge"]
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
    """

    instruction: str = ""
    ending: str = ""
    templates: Mapping[str, str] = field(default_factory=lambda: shipped("default"))
    openings: Mapping[Kind, tuple[Mapping[str, str], ...]] = field(default_factory=dict)

    def render(self, name: str, question: str, shown: str | Sequence[str] = "", n: int = 1, N: int = 1) -> str:
        """A prompt by its template's name.

        Parameters
        ----------
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
        values = {"question": question, "instruction": self.instruction, "ending": self.ending}
        if variable := SHOWN.get(name):
            values[variable] = shown  # type: ignore[assignment]
        try:
            return compiled(self.templates[name]).render(values, n=n, N=N)
        except DataError:
            raise
        except Exception as error:  # a template may do whatever jinja2 knows
            raise ConfigError(f"task.prompts: {name}: cannot be rendered ({error}); mend the template") from error


@cache
def environment() -> Any:
    """Of jinja2, in which templates can do no harm, with a filter for lists of answers and one for expressions."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    made.filters["numbered"] = lambda answers: "\n\n".join(f"Solution {n}:\n{one}" for n, one in enumerate(answers, 1))
    made.filters["expression"] = expression_of
    return made


@cache
def compiled(template: str) -> Any:
    """A template to be rendered."""
    return environment().from_string(template)


def expression_of(question: str) -> str:
    """The arithmetic expression in a question, without spaces, or the one that a story of six numbers comes to.

    Raises
    ------
    DataError
        The question holds no expression of integers, ``+``, ``-`` and ``*``.
    """
    if match := _EXPRESSION.search(question):
        return re.sub(r"\s", "", match.group())
    if len(numbers := re.findall(r"\d+", question)) == 6:
        return "{}+{}*{}+{}-{}*{}".format(*numbers)
    raise DataError(
        f"the compact prompts found no arithmetic expression in the question {question[:60]!r}; "
        "use task.prompts: default for questions in words"
    )


def task_prompts(name: str) -> PromptSet:
    """Prompts of the folder of a task, which has an instruction, an ending, and templates that differ from others'."""
    own = shipped(name)
    return PromptSet(own["instruction"], own["ending"], {**shipped("default"), **own})


def compact_prompts() -> PromptSet:
    """Prompts for the micro model."""
    return PromptSet(templates=shipped("compact"))


# --- prompts of one's own ----------------------------------------------------------

# What templates are tried on, each beginning with a text that occurs nowhere else.
_PROBES = {"question": "\u2460+2*3", "summary": "\u2461", "answers": ["\u2462", "\u2462"], "answer": "\u2463"}


class Turn(Strict):
    """One exchange that stands before a prompt."""

    user: str
    assistant: str


class Example(Strict):
    """A worked problem: the question goes through the template ``first``."""

    question: str
    answer: str


class Examples(Strict):
    """Exchanges of their own before each kind of prompt."""

    first: list[Turn] = []
    summarize: list[Turn] = []
    update: list[Turn] = []
    judge: list[Turn] = added([], "of debate.aggregate: judge")


class PromptFile(Strict):
    """A researcher's own prompts: a YAML file of jinja2 templates, worked examples and a system message.

    What a file leaves out comes from the task.
    """

    system: str | None = Field(
        None, description="the system message; joined to the first user turn where a model has none"
    )
    examples: list[Example] | Examples = Field(
        [], description="question and answer each, or user and assistant in lists: first, summarize, update, judge"
    )
    first: str | None = Field(None, description="a template over question")
    summarize: str | None = Field(None, description="a template over answers and question")
    update: str | None = Field(None, description="a template over summary and question")
    update_without_summary: str | None = Field(None, description="a template over answers and question")
    integrate: str | None = Field(None, description="a template over summary and question")
    integrate_without_summary: str | None = Field(None, description="a template over answers and question")
    hint: str | None = Field(None, description="a template over question and answer, for star")
    judge: str | None = Field(None, description="a template over answers and question, for debate.aggregate: judge")


def prompts_of(file: PromptFile, task: PromptSet) -> PromptSet:
    """A prompt file's prompts, and the task's own for whatever it leaves out.

    Raises
    ------
    ConfigError
        A template is malformed, uses an unknown variable, or leaves out one without which the model could not answer.
    """
    own = {name: text for name in SHOWN if (text := getattr(file, name)) is not None}
    for name, text in own.items():
        _check(name, text)
    prompts = replace(task, templates={**task.templates, **own})
    # Examples go through the template, so a fault in it shows now.
    return replace(prompts, openings={kind: _turns(kind, file, prompts) for kind in get_args(Kind)})


def _turns(kind: Kind, file: PromptFile, prompts: PromptSet) -> tuple[Mapping[str, str], ...]:
    if isinstance(file.examples, Examples):
        turns = [(turn.user, turn.assistant) for turn in getattr(file.examples, kind)]
    else:
        # A critic's chat begins with its first answer, and so with what stood before that.
        shown = file.examples if kind in ("first", "update") else []
        turns = [(prompts.render("first", example.question), example.answer) for example in shown]
    system = [("system", file.system)] if file.system else []
    chat = [pair for user, assistant in turns for pair in (("user", user), ("assistant", assistant))]
    return tuple({"role": role, "content": text} for role, text in system + chat)


def _check(name: str, text: str) -> None:
    """Refuse a template that cannot work."""
    from jinja2 import TemplateSyntaxError, meta

    variables = [variable for variable in (SHOWN[name], "question", "n", "N") if variable]
    needed = {"first": ["question"], "hint": ["question", "answer"]}.get(name, variables[:1])
    try:
        used = meta.find_undeclared_variables(environment().parse(text))
        template = compiled(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"task.prompts: {name}, line {error.lineno}: {error.message}; mend the template") from error
    if unknown := sorted(used - set(variables)):
        raise ConfigError(f"task.prompts: {name}: unknown variable '{unknown[0]}'; there are {', '.join(variables)}")
    lost = {variable for variable in needed if variable not in used}
    # What is used may still not be shown, be it to a lone agent or to the second of three.
    for n, N in ((1, 1), (2, 3)):
        with suppress(Exception):  # what cannot be rendered is named where it is used
            rendered = template.render(_PROBES, n=n, N=N)
            lost |= {variable for variable in needed if _PROBES[variable][0] not in rendered}
    if missing := [variable for variable in needed if variable in lost]:
        raise ConfigError(f"task.prompts: {name}: never shows {{{{ {missing[0]} }}}}; put it into the template")
