"""From debates with gold answers to figures with errors and tests."""

from __future__ import annotations

from hpcmaf.evaluation.accuracy import SCHEMA, pseudo_label_accuracy, score
from hpcmaf.evaluation.significance import McNemar, mcnemar, outcomes
from hpcmaf.evaluation.spread import Estimate, estimate, standard_error

__all__ = [
    "SCHEMA",
    "Estimate",
    "McNemar",
    "estimate",
    "mcnemar",
    "outcomes",
    "pseudo_label_accuracy",
    "score",
    "standard_error",
]
