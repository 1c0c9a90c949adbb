"""The functional core of the metrics: pure functions of arrays and tensors."""

from lit_hier.metrics.functional.crossing import crossing, transition
from lit_hier.metrics.functional.deviation import WINDOW, deviation
from lit_hier.metrics.functional.histogram import histogram_means, histogram_update
from lit_hier.metrics.functional.moments import Moments, channel_moments, merge_moments
from lit_hier.metrics.functional.similarity import (
    Standardization,
    StandardizationKind,
    standardize,
    standardized_cosine,
)
from lit_hier.metrics.functional.summary import mode, standard_error, std_between, summarize

__all__ = [
    "WINDOW",
    "Moments",
    "Standardization",
    "StandardizationKind",
    "channel_moments",
    "crossing",
    "deviation",
    "histogram_means",
    "histogram_update",
    "merge_moments",
    "mode",
    "standard_error",
    "standardize",
    "standardized_cosine",
    "std_between",
    "summarize",
    "transition",
]
