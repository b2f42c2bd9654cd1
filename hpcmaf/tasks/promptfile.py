"""A researcher's own prompts: a YAML file of jinja2 templates, worked examples and a system message.

    system: You are a careful mathematician.
    examples:
      - {question: What is 2 + 3?, answer: "2 + 3 = 5. Answer: \\boxed{5}"}
    first: "{{ question }} End with \\boxed{}."
    update: "Others say: {{ summary }} Check your answer to {{ question }}, then end with \\boxed{}."

What a file leaves out comes from the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from pydantic import Field

from hpcmaf.errors import ConfigError
from hpcmaf.files.yaml import Strict
from hpcmaf.tasks.prompts import SHOWN, Kind, PromptSet, compiled, environment

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
    return replace(prompts, openings={kind: _turns(kind, file, prompts) for kind in ("first", "summarize", "update")})


def _turns(kind: Kind, file: PromptFile, prompts: PromptSet) -> tuple[Mapping[str, str], ...]:
    if isinstance(file.examples, Examples):
        turns = [(turn.user, turn.assistant) for turn in getattr(file.examples, kind)]
    else:
        # A critic's chat begins with its first answer, and so with what stood before that.
        shown = file.examples if kind != "summarize" else []
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
