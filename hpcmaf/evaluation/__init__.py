"""From debates with gold answers to figures with errors and tests."""

from __future__ import annotations

from hpcmaf.evaluation.accuracy import pseudo_label_accuracy, score
from hpcmaf.evaluation.comparison import Comparison, compare, holm, sign_flip_test
from hpcmaf.evaluation.curves import majority_at_k, pass_at_k
from hpcmaf.evaluation.measures import MEASURES, SCHEMA, declared, measures_of, own_measure
from hpcmaf.evaluation.significance import McNemar, mcnemar, outcomes
from hpcmaf.evaluation.spread import Estimate, Ratio, estimate, estimate_shares, ratio, standard_error

__all__ = [
    "MEASURES",
    "SCHEMA",
    "Comparison",
    "Estimate",
    "McNemar",
    "Ratio",
    "compare",
    "declared",
    "estimate",
    "estimate_shares",
    "holm",
    "majority_at_k",
    "mcnemar",
    "measures_of",
    "outcomes",
    "own_measure",
    "pass_at_k",
    "pseudo_label_accuracy",
    "ratio",
    "score",
    "sign_flip_test",
    "standard_error",
]
