"""Tasks: problems, splits, prompts and the leak guard.

The shipped ones: ``generated`` (arithmetic, words, sums), ``datasets`` (GSM8K, SVAMP, MATH, AIME, MMLU, MMLU-Pro, ARC,
GPQA, your own JSON lines) and ``code`` (HumanEval, MBPP). Importing this package reads no data and loads nothing heavy.
"""

from hpcmaf.tasks.splits import Splits, leak_guard
from hpcmaf.tasks.task import GENERATED, TASKS, Task, get_task

__all__ = ["GENERATED", "TASKS", "Splits", "Task", "get_task", "leak_guard"]
