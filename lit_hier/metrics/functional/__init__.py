"""The functional core of the metrics: pure functions of arrays and tensors."""

from lit_hier.metrics.functional.averages import Average, average, count_data, wilson
from lit_hier.metrics.functional.baseline import correct_baseline
from lit_hier.metrics.functional.bootstrap import bootstrap_error, resampled_means
from lit_hier.metrics.functional.correlation import (
    ChangeSums,
    Correlation,
    Estimates,
    correlation_length,
    estimate_correlation,
    fit_decay,
    jackknife_error,
    power_law_misfit,
)
from lit_hier.metrics.functional.crossing import (
    crossing,
    theory_errors,
    transition,
    transition_errors,
)
from lit_hier.metrics.functional.deviation import WIDTHS, deviation, transition_window
from lit_hier.metrics.functional.histogram import histogram_update
from lit_hier.metrics.functional.inversion import (
    Inversion,
    curve_inversion,
    inversion,
    last_inversion,
)
from lit_hier.metrics.functional.located import TRANSITION_NUMBERS, locate_transition
from lit_hier.metrics.functional.moments import Moments, channel_moments, merge_moments
from lit_hier.metrics.functional.pairs import GridPairs, Pairs, TreePairs
from lit_hier.metrics.functional.places import peak, significant_peak, steepest
from lit_hier.metrics.functional.scaling import Exponent, collapse_spread, fit_exponent
from lit_hier.metrics.functional.sensitivity import relative_distance
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
    "ChangeSums",
    "Correlation",
    "Estimates",
    "Exponent",
    "GridPairs",
    "Inversion",
    "Moments",
    "Pairs",
    "Per",
    "Standardization",
    "StandardizationKind",
    "TreePairs",
    "average",
    "bootstrap_error",
    "channel_moments",
    "check_bandwidth",
    "check_standardization",
    "collapse_spread",
    "correct_baseline",
    "correlation_length",
    "count_data",
    "crossing",
    "curve_inversion",
    "deviation",
    "estimate_correlation",
    "fit_decay",
    "fit_exponent",
    "histogram_update",
    "inversion",
    "jackknife_error",
    "last_inversion",
    "locate_transition",
    "merge_moments",
    "mode",
    "mode_bandwidth",
    "mode_error",
    "peak",
    "power_law_misfit",
    "relative_distance",
    "resampled_means",
    "significant_peak",
    "standardize",
    "standardized_cosine",
    "steepest",
    "summarize",
    "theory_errors",
    "transition",
    "transition_errors",
    "transition_window",
    "wilson",
]
