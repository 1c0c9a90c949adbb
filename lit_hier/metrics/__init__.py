"""Streaming statistics: a pure functional core, and classes that gather over processes."""

from lit_hier.metrics.functional import (
    WIDTHS,
    Average,
    Inversion,
    Moments,
    Standardization,
    StandardizationKind,
    average,
    channel_moments,
    check_bandwidth,
    crossing,
    curve_inversion,
    deviation,
    inversion,
    mode,
    mode_bandwidth,
    mode_error,
    summarize,
    transition,
    transition_errors,
    transition_window,
    wilson,
)
from lit_hier.metrics.histogram import Histogram
from lit_hier.metrics.moments import MomentTree
from lit_hier.metrics.sample_table import SampleTable
from lit_hier.metrics.similarity import SimilarityTo

__all__ = [
    "WIDTHS",
    "Average",
    "Histogram",
    "Inversion",
    "MomentTree",
    "Moments",
    "SampleTable",
    "SimilarityTo",
    "Standardization",
    "StandardizationKind",
    "average",
    "channel_moments",
    "check_bandwidth",
    "crossing",
    "curve_inversion",
    "deviation",
    "inversion",
    "mode",
    "mode_bandwidth",
    "mode_error",
    "summarize",
    "transition",
    "transition_errors",
    "transition_window",
    "wilson",
]
