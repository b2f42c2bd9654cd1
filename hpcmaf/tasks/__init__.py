"""Tasks: problems, splits, prompts and the leak guard.

Importing this package reads no data and loads nothing heavy.
"""

from hpcmaf.tasks.registry import TASKS, get_task
from hpcmaf.tasks.splits import Splits, leak_guard
from hpcmaf.tasks.task import Task

__all__ = ["TASKS", "Splits", "Task", "get_task", "leak_guard"]
