"""A grader of your own, in one file: answers that are products of prime factors, such as 2*2*3.

    task: {name: own_task.py:GCD, grader: own_grader.py:Product, train: 100, eval: 100}

in a recipe beside it. A grader has any of the methods ``extract``, ``key``, ``equivalent`` and ``right``, which
:class:`hpcmaf.tasks.grader.Grader` describes; what it lacks is done as for shipped tasks. A task may have them, too.
"""

import math
import re

from hpcmaf import Problem


class Product:
    """Answers are the same where their products are; what divides neither number of the question is none."""

    def extract(self, text: str, problem: Problem) -> str | None:
        """The last product or number that the text writes behind ``Answer:``."""
        found = re.findall(r"Answer:\D*?(\d+(?:\s*\*\s*\d+)*)", text)
        return re.sub(r"\s", "", found[-1]) if found else None

    def key(self, answer: str, problem: Problem) -> str | None:
        """The value, unless the question rules it out: such an answer has no vote."""
        value = math.prod(map(int, answer.split("*")))
        numbers = map(int, re.findall(r"\d+", problem.question))
        return str(value) if value and all(number % value == 0 for number in numbers) else None
