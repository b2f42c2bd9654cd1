"""How differently the agents of a society answer (paper, section on diversity).

Consensus needs no model and is in every ``metrics.json``; what needs one is
here, computed on a sample of the evaluation debates.
"""

from __future__ import annotations

from hpcmaf.evaluation.diversity.embedding import dissimilarity
from hpcmaf.evaluation.diversity.likelihood import Likelihoods, held_out_nll, kl_between, kl_to_base

__all__ = ["Likelihoods", "dissimilarity", "held_out_nll", "kl_between", "kl_to_base"]
