"""How answers are read out of responses and compared: as for the shipped tasks, or by an object of your own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from hpcmaf.answers import AnswerForm, equivalent, extract, spoken
from hpcmaf.errors import ConfigError, HpcmafError, one_line
from hpcmaf.tasks.problems import Problem

METHODS = {"extract": str | None, "key": str | None, "equivalent": bool, "right": bool}
_CHOICE = re.compile(r"^\(([A-J])\) ", re.MULTILINE)


@dataclass(frozen=True)
class Grader:
    """What reads, compares and marks the answers of a run.

    An object of your own - a task, or what ``task.grader`` names - has any of these methods; what it lacks is done as
    for the shipped tasks. All may look at the problem's question; only ``right`` and what it calls ever sees its gold.

    - ``extract(text, problem)``: the answer of a response without its thoughts, or ``None``. It is called once a
      response, and never for one that was cut off.
    - ``key(answer, problem)``: answers with the same key are one answer in votes; ``None`` is no answer.
    - ``equivalent(a, b, problem)``: instead of ``key``, whether two answers are the same.
    - ``right(answer, problem)``: whether an answer is right; by default, whether it is the same as ``problem.gold``.

    The last three are called often, and have to give the same every time: what takes long belongs into ``extract``.

    Parameters
    ----------
    name
        As in ``task.grader``, or a task's name; empty for the shipped ways. Loaded when it is first needed.
    sandbox
        What programs that are answers run in, see :mod:`hpcmaf.tasks.sandbox`.
    """

    name: str = ""
    sandbox: str = "namespaces"

    def extract(self, text: str, problem: Problem, form: AnswerForm | str, *, truncated: bool = False) -> str | None:
        """The answer of a response, as it is stored."""
        if not self.has("extract"):
            return extract(text, form, truncated=truncated, letters=_letters(problem.question))
        shown = "" if truncated else spoken(text)
        return self._call("extract", shown, problem) if shown else None

    def same(self, a: str, b: str, problem: Problem) -> bool:
        """Whether two answers are one in votes."""
        if self.has("key"):
            key = self._call("key", a, problem)
            return key is not None and key == self._call("key", b, problem)
        return self._call("equivalent", a, b, problem) if self.has("equivalent") else equivalent(a, b)

    def spelling(self, answer: str, problem: Problem) -> str:
        """What stands for an answer where votes of several iterations are compared."""
        return str(self._call("key", answer, problem)) if self.has("key") else answer

    def right(self, answer: str | None, problem: Problem) -> bool:
        """Whether an answer is the gold one; never where one of them is unknown."""
        if answer is None or problem.gold is None:
            return False
        return self._call("right", answer, problem) if self.has("right") else self.same(answer, problem.gold, problem)

    def has(self, method: str) -> bool:
        """Whether this grader does something in its own way."""
        return bool(self.name) and hasattr(_load(self.name, self.sandbox), method)

    def check(self) -> None:
        """Refuse what this machine cannot grade."""
        if self.has("check"):
            _load(self.name, self.sandbox).check()

    def _call(self, method: str, *values: Any) -> Any:
        try:
            found = getattr(_load(self.name, self.sandbox), method)(*values)
        except HpcmafError:
            raise
        except Exception as error:  # whatever somebody's own code raises
            raise ConfigError(
                f"task.grader: {self.name}: {method} failed on problem {values[-1].id} "
                f"({type(error).__name__}: {one_line(str(error))}); mend it"
            ) from error
        if not isinstance(found, METHODS[method]):
            raise ConfigError(
                f"task.grader: {self.name}: {method} gave a {type(found).__name__}; see recipes/own_grader.py"
            )
        return found


def grader_of(source: Any) -> Grader:
    """The grader of a recipe's ``task`` or ``evaluate_on``.

    Raises
    ------
    ConfigError
        It cannot be loaded, has none of the methods, or reads answers itself where a kind of answer is asked for.
    """
    name = source.grader or ("code" if source.answer == "code" else source.name)
    found = _load(name, source.sandbox)
    if not any(hasattr(found, method) for method in METHODS):
        if source.grader:
            raise ConfigError(f"task.grader: {name}: has no method {', '.join(METHODS)}; see recipes/own_grader.py")
        name = ""
    grader = Grader(name, source.sandbox)
    if source.sandbox != "namespaces" and not hasattr(found, "sandbox"):
        raise ConfigError("task.sandbox: the answers of this task are no programs; leave it out")
    if source.answer not in (None, "code") and grader.has("extract"):
        raise ConfigError(f"task.answer: {name} reads answers in its own way; leave one of the two out")
    return grader


@cache
def _load(name: str, sandbox: str) -> Any:
    from hpcmaf.tasks.task import TASKS, get_task, load_plugin

    if name == "code" or (name in TASKS and get_task(name).answer_form is AnswerForm.CODE):
        from hpcmaf.tasks.code import Code

        return Code(sandbox)
    found = get_task(name) if name in TASKS else load_plugin("task.grader", name, "hpcmaf.graders")
    if found is None and (found := load_plugin("task.name", name, "hpcmaf.tasks")) is None:
        raise ConfigError(
            f"task.grader: there is no grader '{name}'; use code, one of an installed package, or FILE.py:OBJECT"
        )
    return found


def _letters(question: str) -> str:
    """The choices that a question shows in lines of their own."""
    found = "".join(_CHOICE.findall(question))
    return found if found and "ABCDEFGHIJ".startswith(found) else "ABCD"
