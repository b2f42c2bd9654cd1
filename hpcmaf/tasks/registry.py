"""Which tasks there are; a new one is a module with a ``TASK`` and a row here."""

from __future__ import annotations

from importlib import import_module

from hpcmaf.errors import ConfigError
from hpcmaf.tasks.task import Task

# Task name to the module that defines it.
_MODULES = {
    "arithmetic": "hpcmaf.tasks.arithmetic",
    "words": "hpcmaf.tasks.words",
    "sums": "hpcmaf.tasks.sums",
    "gsm8k": "hpcmaf.tasks.gsm8k",
    "math": "hpcmaf.tasks.math",
    "mmlu": "hpcmaf.tasks.mmlu",
    "jsonl": "hpcmaf.tasks.jsonl",
}
TASKS: tuple[str, ...] = tuple(_MODULES)
# Drawn from a recipe's seed: there is nothing to prepare.
GENERATED = ("arithmetic", "words", "sums")


def get_task(name: str) -> Task:
    """Look a task up by the name recipes use.

    Raises
    ------
    ConfigError
        There is no such task.
    """
    if name not in _MODULES:
        raise ConfigError(f"task.name: there is no task '{name}'; use one of {', '.join(TASKS)}")
    return import_module(_MODULES[name]).TASK
