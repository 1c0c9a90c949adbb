"""Inference on the Random Hierarchy Model: exact by belief propagation, and in mean field."""

from lit_hier.inference import mean_field
from lit_hier.inference.belief_propagation import BeliefPropagation
from lit_hier.inference.exact_denoiser import ExactDenoiser
from lit_hier.inference.passes import Query
from lit_hier.inference.posterior import Posterior, UnexplainedEvidenceError

__all__ = [
    "BeliefPropagation",
    "ExactDenoiser",
    "Posterior",
    "Query",
    "UnexplainedEvidenceError",
    "mean_field",
]
