"""What the paper printed, for a column beside the measured ones.

Accuracies in percent (arXiv 2501.05707), after one iteration, and on MATH over five. Its standard errors are left out:
many break the rule the paper gives for them.
"""

from __future__ import annotations

import math

from hpcmaf.report.records import Run

_TASKS = ("arithmetic", "gsm8k", "math")
_FAMILIES = ("phi-3", "mistral", "llama-3")
# base, majority and debate are the untouched base's, the rest after one iteration; of each family a column per task.
_ONE_ITERATION = """
    base                       88.30  81.20  45.60    10.80  35.60  16.60    43.20  75.00  46.80
    majority                   91.80  81.80  47.20    14.80  41.80  16.80    45.80  76.40  47.20
    debate                     96.20  84.40  53.40    19.60  52.60  18.20    48.40  78.40  51.60
    star                       94.80  85.80  51.80    17.40  45.50  17.84    nan    nan    nan
    majority-ft                93.80  82.20  48.60    16.40  44.60  18.91    49.20  77.20  52.20
    maft                       99.40  88.60  58.80    22.60  58.40  22.50    52.00  88.60  57.40
    maft-no-summary            98.80  84.40  55.00    21.80  56.00  20.20    50.40  83.20  51.60
    maft-no-critic             98.20  86.00  56.60    21.00  54.80  19.01    48.60  82.20  50.50
    single-agent-ft            97.40  86.80  56.80    21.20  55.00  19.21    48.00  84.40  52.40
    single-agent-ft-no-debate  92.20  83.60  50.20    17.71  51.20  17.22    44.00  81.60  48.80
"""
_MATH_OVER_ITERATIONS = {
    "phi-3": (58.8, 61.4, 63.6, 65.2, 66.0),
    "mistral": (22.5, 24.2, 26.5, 27.9, 28.2),
    "llama-3": (57.4, 61.2, 62.8, 66.0, 67.0),
}
# The very models of the paper, by the last part of their name.
_MODELS = {
    "phi-3-mini-128k-instruct": "phi-3",
    "mistral-7b-instruct-v0.2": "mistral",
    "meta-llama-3-8b": "llama-3",
    "meta-llama-3-8b-instruct": "llama-3",
}
_SIZE, _LEVELS = (3, 2), [1, 2, 3]


def published(run: Run, iteration: int) -> float | None:
    """The paper's accuracy as a share, or ``None`` where it has none for these settings.

    That is: of this very model, on this task (of MATH levels 1 to 3), with as many agents and rounds as the paper's, as
    far as the method asks for any. Beyond iteration 1 the paper has MATH with maft only.
    """
    name, method, task = _MODELS.get(run.model.lower()), run.method, run.evaluated_on
    untrained = method.trained == "none"
    shapes = (method.inference_shape, *([] if untrained else [method.rollout_shape]))
    if any(shape(*run.size) != shape(*_SIZE) for shape in shapes):
        return None
    if name is None or run.transferred or task not in _TASKS:
        return None
    if task == "math" and {*(run.recipe.evaluation.levels or _LEVELS)} != {*_LEVELS}:
        return None
    if task == "math" and method.name == "maft" and 1 <= iteration <= 5:
        return _MATH_OVER_ITERATIONS[name][iteration - 1] / 100
    if iteration != (0 if untrained else 1):
        return None
    rows = {method: values for method, *values in map(str.split, _ONE_ITERATION.strip().splitlines())}
    column = len(_TASKS) * _FAMILIES.index(name) + _TASKS.index(task)
    value = float(rows[method.name][column]) if method.name in rows else math.nan
    return None if math.isnan(value) else value / 100
