"""The functional core of the metrics: pure functions of arrays and tensors."""

from lit_hier.metrics.functional.averages import Average, average, wilson
from lit_hier.metrics.functional.baseline import correct_baseline
from lit_hier.metrics.functional.bootstrap import bootstrap_error, resampled_means
from lit_hier.metrics.functional.crossing import (
    crossing,
    theory_errors,
    transition,
    transition_errors,
)
from lit_hier.metrics.functional.deviation import WIDTHS, deviation, transition_window
from lit_hier.metrics.functional.histogram import histogram_update
from lit_hier.metrics.functional.inversion import Inversion, curve_inversion, inversion
from lit_hier.metrics.functional.located import TRANSITION_NUMBERS, locate_transition
from lit_hier.metrics.functional.moments import Moments, channel_moments, merge_moments
from lit_hier.metrics.functional.similarity import (
    Per,
    Standardization,
    StandardizationKind,
    check_standardization,
    standardize,
    standardized_cosine,
)
from lit_hier.metrics.functional.summary import (
    check_bandwidth,
    mode,
    mode_bandwidth,
    mode_error,
    summarize,
)

__all__ = [
    "TRANSITION_NUMBERS",
    "WIDTHS",
    "Average",
    "Inversion",
    "Moments",
    "Per",
    "Standardization",
    "StandardizationKind",
    "average",
    "bootstrap_error",
    "channel_moments",
    "check_bandwidth",
    "check_standardization",
    "correct_baseline",
    "crossing",
    "curve_inversion",
    "deviation",
    "histogram_update",
    "inversion",
    "locate_transition",
    "merge_moments",
    "mode",
    "mode_bandwidth",
    "mode_error",
    "resampled_means",
    "standardize",
    "standardized_cosine",
    "summarize",
    "theory_errors",
    "transition",
    "transition_errors",
    "transition_window",
    "wilson",
]
