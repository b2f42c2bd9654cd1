"""A researcher's own prompts: a YAML file of jinja2 templates, worked examples and a system message.

    system: You are a careful mathematician.
    examples:
      - {question: What is 2 + 3?, answer: "2 + 3 = 5. Answer: \\boxed{5}"}
    first: "{{ question }} End with \\boxed{}."
    update: "Others say: {{ summary }} Check your answer to {{ question }}, then end with \\boxed{}."

What a file leaves out comes from the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Literal

from pydantic import Field

from hpcmaf.errors import ConfigError
from hpcmaf.files.yaml import Strict
from hpcmaf.tasks.base import Kind, PromptSet

# Template to the variables that it must use, and those that it may.
_VARIABLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "first": (("question",), ("n", "N")),
    "summarize": (("answers",), ("question", "n", "N")),
    "update": (("summary",), ("question", "n", "N")),
    "update_without_summary": (("answers",), ("question", "n", "N")),
    "integrate": (("summary",), ("question", "n", "N")),
    "integrate_without_summary": (("answers",), ("question", "n", "N")),
    "hint": (("question", "answer"), ("n", "N")),
}


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

    system: str | None = Field(None, description="the system message; joined to the first user turn where a model has none")
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


class TemplatePrompts(PromptSet):
    """A :class:`hpcmaf.tasks.base.PromptSet` out of a prompt file.

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

    def __init__(self, file: PromptFile, task: PromptSet) -> None:
        self._file, self._task = file, task
        self._agent = {"n": 1, "N": 1}
        self._templates = {
            name: _compile(name, text) for name in _VARIABLES if (text := getattr(file, name)) is not None
        }
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

    def first(self, question: str) -> str:
        """Rendered over ``question``."""
        return self._render("first", question=question)

    def summarize(self, question: str, answers: Sequence[str]) -> str:
        """Rendered over ``question`` and ``answers``."""
        return self._render("summarize", question=question, answers=list(answers))

    def update(self, question: str, summary: str) -> str:
        """Rendered over ``question`` and ``summary``."""
        return self._render("update", question=question, summary=summary)

    def update_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """Rendered over ``question`` and ``answers``."""
        return self._render("update_without_summary", question=question, answers=list(answers))

    def integrate(self, question: str, summary: str) -> str:
        """Rendered over ``question`` and ``summary``."""
        return self._render("integrate", question=question, summary=summary)

    def integrate_without_summary(self, question: str, answers: Sequence[str]) -> str:
        """Rendered over ``question`` and ``answers``."""
        return self._render("integrate_without_summary", question=question, answers=list(answers))

    def named(self, role: Literal["generator", "critic"], agent: int, text: str) -> str:
        """The task's own way to give an agent's ID and role."""
        return self._task.named(role, agent, text)

    def hint(self, question: str, answer: str) -> str:
        """Rendered over ``question`` and ``answer``."""
        return self._render("hint", question=question, answer=answer)

    def _render(self, name: str, **values: Any) -> str:
        if name not in self._templates:
            return getattr(self._task, name)(**values)
        try:
            return self._templates[name].render(values | self._agent)
        except Exception as error:  # a template may do whatever jinja2 knows
            raise ConfigError(f"task.prompts: {name}: cannot be rendered ({error}); mend the template") from error


def _compile(name: str, text: str) -> Any:
    # Imported only where there is a template.
    from jinja2 import StrictUndefined, TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    needed, allowed = _VARIABLES[name]
    jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    try:
        used = meta.find_undeclared_variables(jinja.parse(text))
        template = jinja.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"task.prompts: {name}, line {error.lineno}: {error.message}; mend the template") from error
    unknown, missing = sorted(used - {*needed, *allowed}), [key for key in needed if key not in used]
    if unknown:
        raise ConfigError(
            f"task.prompts: {name}: unknown variable '{unknown[0]}'; there are {', '.join((*needed, *allowed))}"
        )
    if missing:
        raise ConfigError(f"task.prompts: {name}: never shows {{{{ {missing[0]} }}}}; put it into the template")
    return template
