"""From debates with gold answers to metrics with errors and tests."""

from __future__ import annotations

from hpcmaf.evaluation.accuracy import pseudo_label_accuracy, score
from hpcmaf.evaluation.measures import MEASURES, SCHEMA, declared, measures_of, own_measure
from hpcmaf.evaluation.significance import Comparison, compare, holm, mcnemar, outcomes, sign_flip_test
from hpcmaf.evaluation.spread import Estimate, Ratio, estimate, ratio

__all__ = [
    "MEASURES",
    "SCHEMA",
    "Comparison",
    "Estimate",
    "Ratio",
    "compare",
    "declared",
    "estimate",
    "holm",
    "mcnemar",
    "measures_of",
    "outcomes",
    "own_measure",
    "pseudo_label_accuracy",
    "ratio",
    "score",
    "sign_flip_test",
]
