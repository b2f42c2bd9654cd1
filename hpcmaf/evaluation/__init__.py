"""From debates with gold answers to metrics with errors and tests."""

from __future__ import annotations

from hpcmaf.evaluation.accuracy import MEASURES, estimate, measures_of, own_measure, pseudo_label_accuracy, score
from hpcmaf.evaluation.significance import Comparison, compare, holm, mcnemar, outcomes, sign_flip_test

__all__ = [
    "MEASURES",
    "Comparison",
    "compare",
    "estimate",
    "holm",
    "mcnemar",
    "measures_of",
    "outcomes",
    "own_measure",
    "pseudo_label_accuracy",
    "score",
    "sign_flip_test",
]
