"""A researcher's own prompts: a YAML file of jinja2 templates, worked examples and a system message.

    system: You are a careful mathematician.
    examples:
      - {question: What is 2 + 3?, answer: "2 + 3 = 5. Answer: \\boxed{5}"}
    first: "{{ question }} End with \\boxed{}."
    update: "Others say: {{ summary }} Check your answer to {{ question }}, then end with \\boxed{}."

What a file leaves out comes from the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from typing import Any

from pydantic import Field

from hpcmaf.errors import ConfigError
from hpcmaf.files.yaml import Strict
from hpcmaf.tasks.prompts import Kind, PromptSet, Role

# Template to what it shows beside the question; it may also use ``n`` and ``N``.
_SHOWN: Mapping[str, str | None] = {
    "first": None,
    "summarize": "answers",
    "update": "summary",
    "update_without_summary": "answers",
    "integrate": "summary",
    "integrate_without_summary": "answers",
    "hint": "answer",
    "judge": "answers",
}


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


class PromptFile(Strict):
    """What a prompt file may hold."""

    system: str | None = Field(
        None, description="the system message; joined to the first user turn where a model has none"
    )
    examples: list[Example] | Examples = Field(
        [], description="pairs of question and answer, or lists of user and assistant under first, summarize, update"
    )
    first: str | None = Field(None, description="a template over question")
    summarize: str | None = Field(None, description="a template over answers and question")
    update: str | None = Field(None, description="a template over summary and question")
    update_without_summary: str | None = Field(None, description="a template over answers and question")
    integrate: str | None = Field(None, description="a template over summary and question")
    integrate_without_summary: str | None = Field(None, description="a template over answers and question")
    hint: str | None = Field(None, description="a template over question and answer, for star")
    judge: str | None = Field(None, description="a template over answers and question, for debate.aggregate: judge")


def _template(name: str) -> Callable[..., str]:
    shown_as = _SHOWN[name]

    def message(self: TemplatePrompts, question: str, shown: str | Sequence[str] | None = None) -> str:
        if name not in self._templates:
            return getattr(self._task, name)(*((question, shown) if shown_as else (question,)))
        variables = {"question": question, **({shown_as: shown} if shown_as else {}), **self._agent}
        try:
            return self._templates[name].render(variables)
        except Exception as error:  # a template may do whatever jinja2 knows
            raise ConfigError(f"task.prompts: {name}: cannot be rendered ({error}); mend the template") from error

    message.__doc__ = f"The template ``{name}``, or the task's own words where the file has none."
    return message


class TemplatePrompts(PromptSet):
    """A :class:`hpcmaf.tasks.prompts.PromptSet` out of a prompt file.

    Parameters
    ----------
    file
        The file's content.
    task
        The task's own prompts, for whatever the file leaves out.

    Raises
    ------
    ConfigError
        A template is malformed, uses an unknown variable, or leaves out one
        without which the model could not answer.
    """

    first, summarize, hint, judge = map(_template, ("first", "summarize", "hint", "judge"))
    update, update_without_summary = _template("update"), _template("update_without_summary")
    integrate, integrate_without_summary = _template("integrate"), _template("integrate_without_summary")

    def __init__(self, file: PromptFile, task: PromptSet) -> None:
        self._file, self._task = file, task
        self._agent = {"n": 1, "N": 1}
        self._templates = {name: _compile(name, text) for name in _SHOWN if (text := getattr(file, name)) is not None}
        # Examples go through the template, so a fault in it shows now.
        self._opening = {kind: self._turns(kind) for kind in ("first", "summarize", "update")}

    def for_agent(self, n: int, N: int) -> TemplatePrompts:
        """The same templates with ``n`` and ``N`` set."""
        bound = copy(self)
        bound._agent = {"n": n, "N": N}
        return bound

    def opening(self, kind: Kind) -> tuple[Mapping[str, str], ...]:
        """System message and worked examples before a prompt of a kind."""
        return self._opening[kind]

    def named(self, role: Role, agent: int, text: str) -> str:
        """The task's own way to give an agent's ID and role."""
        return self._task.named(role, agent, text)

    def _turns(self, kind: Kind) -> tuple[Mapping[str, str], ...]:
        examples = self._file.examples
        if isinstance(examples, Examples):
            turns = [(turn.user, turn.assistant) for turn in getattr(examples, kind)]
        else:
            # A critic's chat begins with its first answer, and so with what stood before that.
            turns = [(self.first(one.question), one.answer) for one in examples] if kind != "summarize" else []
        system = [("system", self._file.system)] if self._file.system else []
        chat = [pair for user, assistant in turns for pair in (("user", user), ("assistant", assistant))]
        return tuple({"role": role, "content": text} for role, text in system + chat)


def _compile(name: str, text: str) -> Any:
    # Imported only where there is a template.
    from jinja2 import StrictUndefined, TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    variables = [variable for variable in (_SHOWN[name], "question", "n", "N") if variable]
    needed = {"first": ["question"], "hint": ["question", "answer"]}.get(name, variables[:1])
    jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    try:
        used = meta.find_undeclared_variables(jinja.parse(text))
        template = jinja.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"task.prompts: {name}, line {error.lineno}: {error.message}; mend the template") from error
    if unknown := sorted(used - set(variables)):
        raise ConfigError(f"task.prompts: {name}: unknown variable '{unknown[0]}'; there are {', '.join(variables)}")
    if missing := [variable for variable in needed if variable not in used or variable in _lost(template, needed)]:
        raise ConfigError(f"task.prompts: {name}: never shows {{{{ {missing[0]} }}}}; put it into the template")
    return template


def _lost(template: Any, needed: Sequence[str]) -> set[str]:
    """Variables that a template uses and does not show, be it to a lone agent or to the second of three."""
    lost = set[str]()
    for n, N in ((1, 1), (2, 3)):
        with suppress(Exception):  # what cannot be rendered is named where it is used
            text = template.render(_PROBES, n=n, N=N)
            lost |= {variable for variable in needed if _PROBES[variable][0] not in text}
    return lost
