"""What is measured: a pure functional core, and torchmetrics classes that gather it."""

from lit_hier.metrics.crossing import crossing, transition
from lit_hier.metrics.deviation import WINDOW, deviation
from lit_hier.metrics.histogram import Histogram
from lit_hier.metrics.moments import Moments, MomentTree, channel_moments
from lit_hier.metrics.sample_table import SampleTable
from lit_hier.metrics.similarity import SimilarityTo, Standardization, StandardizationKind
from lit_hier.metrics.summary import mode, standard_error, std_between, summarize

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
