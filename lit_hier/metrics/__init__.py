"""Streaming statistics: a pure functional core, and classes that gather over processes."""

from lit_hier.metrics.functional import (
    WINDOW,
    Moments,
    Standardization,
    StandardizationKind,
    channel_moments,
    crossing,
    deviation,
    mode,
    standard_error,
    std_between,
    summarize,
    transition,
)
from lit_hier.metrics.histogram import Histogram
from lit_hier.metrics.moments import MomentTree
from lit_hier.metrics.sample_table import SampleTable
from lit_hier.metrics.similarity import SimilarityTo

__all__ = [
    "WINDOW",
    "Histogram",
    "MomentTree",
    "Moments",
    "SampleTable",
    "SimilarityTo",
    "Standardization",
    "StandardizationKind",
    "channel_moments",
    "crossing",
    "deviation",
    "mode",
    "standard_error",
    "std_between",
    "summarize",
    "transition",
]
