"""What a task is, and which tasks there are.

A task of your own needs no change here: a recipe names its file, or a package offers it (:func:`get_task`).
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import ConfigError, one_line
from hpcmaf.tasks.prompts import PromptFile, PromptSet, prompts_of
from hpcmaf.tasks.splits import Splits

# Drawn from a recipe's seed: there is nothing to prepare.
GENERATED = ("arithmetic", "words", "sums")
_MODULES = {
    "generated": GENERATED,
    "datasets": ("gsm8k", "svamp", "math", "aime", "jsonl", "mmlu", "mmlu-pro", "arc", "gpqa"),
    "code": ("humaneval", "mbpp"),
}
TASKS = tuple(name for names in _MODULES.values() for name in names)


@dataclass(frozen=True)
class Task:
    """A task by name; where its problems come from is said by :class:`Generated` and :class:`Files`.

    One that reads or compares answers in its own way has methods of a :class:`hpcmaf.tasks.grader.Grader` besides.

    Attributes
    ----------
    answer_form
        What kind of answer its prompts ask for.
    variants
        Ways to ask its questions; every task has ``"default"``.
    """

    name: str
    answer_form: AnswerForm
    variants: Mapping[str, PromptSet]

    def prompts(self, variant: str | PromptFile = "default") -> PromptSet:
        """User messages of a debate, of a variant or out of a prompt file.

        Raises
        ------
        ConfigError
            The task has no such variant.
        """
        if isinstance(variant, PromptFile):
            return prompts_of(variant, self.prompts())
        if variant not in self.variants:
            known = ", ".join(self.variants)
            raise ConfigError(f"task.prompts: {self.name} has no prompts '{variant}'; use one of {known}")
        return self.variants[variant]

    def splits(
        self, source: Path | None, train: int, eval: int, seed: int, levels: Sequence[int] | None = None
    ) -> Splits:
        """Draw a run's problems: ``train`` and ``eval`` of them.

        Parameters
        ----------
        source
            A folder that ``hpcmaf data prepare`` wrote, or a source it could read; ``None`` for generated tasks.
        seed
            Decides the draw and nothing about which side a question is on.
        levels
            MATH levels; ``None`` takes the paper's, 1 to 3.

        Raises
        ------
        ConfigError
            More is requested than there is, or what the task does not have.
        DataError
            The source is missing, torn or of an unknown layout.
        """
        raise NotImplementedError


@cache
def get_task(name: str) -> Task:
    """Look a task up by the name recipes use.

    That is a shipped task's name; ``FILE.py:OBJECT``, a :class:`Task` in a file; or a name of the entry point group
    ``hpcmaf.tasks``.

    Raises
    ------
    ConfigError
        There is no such task, or what is there is none.
    """
    for module, names in _MODULES.items():
        if name in names:
            return import_module(f"hpcmaf.tasks.{module}").TASKS[name]
    if (found := load_plugin("task.name", name, "hpcmaf.tasks")) is None:
        raise ConfigError(
            f"task.name: there is no task '{name}'; use one of {', '.join(TASKS)}, one of an installed package, "
            "or FILE.py:OBJECT for one of your own"
        )
    if not isinstance(found, Task):
        raise ConfigError(
            f"task.name: {name}: is a {type(found).__name__}; it has to be a hpcmaf.Task, see recipes/own_task.py"
        )
    return found


def load_plugin(key: str, name: str, group: str) -> Any:
    """``FILE.py:OBJECT``, or an entry point of a group, ``None`` if there is none; of a class one object is made.

    Raises
    ------
    ConfigError
        It cannot be loaded; the message names the recipe's key.
    """
    file, _, attribute = name.rpartition(":")
    try:
        if file.endswith(".py"):
            found = runpy.run_path(file)[attribute]
        else:
            found = next((entry.load() for entry in entry_points(group=group, name=name)), None)
        return found() if isinstance(found, type) else found
    except Exception as error:  # whatever somebody's own code raises
        what = f"{type(error).__name__}: {one_line(str(error))}"
        raise ConfigError(f"{key}: {name}: cannot be loaded ({what})") from error
