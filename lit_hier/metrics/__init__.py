"""What is measured: a pure functional core, and torchmetrics classes that gather it."""

from lit_hier.metrics.moments import Moments, MomentTree, channel_moments
from lit_hier.metrics.sample_table import SampleTable
from lit_hier.metrics.similarity import Standardization
from lit_hier.metrics.summary import mode, standard_error, summarize

__all__ = [
    "MomentTree",
    "Moments",
    "SampleTable",
    "Standardization",
    "channel_moments",
    "mode",
    "standard_error",
    "summarize",
]
