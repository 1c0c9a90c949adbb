r"""Inversion: where the curve of one level falls below that of the first level.

At little noise deep levels are kept better than the leaves, beyond the transition worse: the
difference of the two curves falls through zero. Both are measured on the same samples, so errors
are those of the differences :math:`d` sample by sample, averaged as in
`lit_hier.metrics.functional.averages`. There is an inversion if :math:`d` is significantly
positive at some time and significantly negative at a later one,

.. math:: |d| > t_{U - 1}(1 - \alpha / T) \; \mathrm{sem}(d)

with Student's quantile for U units, T times and :math:`\alpha = 0.01`: Bonferroni's bound, by
which curves that do not cross are said to cross in at most one of 100 measurements.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy.special import stdtrit

from lit_hier.metrics.functional.averages import (
    RESOLUTION,
    Groups,
    average,
    degrees_of_freedom,
    independent_units,
)
from lit_hier.metrics.functional.bootstrap import (
    RESAMPLES,
    bootstrap_error,
    check_resamples,
    resampled_means,
)
from lit_hier.metrics.functional.crossing import crossing

_ALPHA: Final = 0.01


class Inversion(NamedTuple):
    """Where a curve crosses the first one.

    Attributes:
        place: The x of the crossing; NaN if none is significant.
        place_sem: Its standard error, by the bootstrap; NaN likewise.
        difference: The largest difference by which the first curve is above the other; its sign is
            negative if it nowhere is.
        difference_sem: The standard error of the difference at this x.
        difference_at: The x.
        resampled: The x of the crossing in each resample of the units, shape (resamples,).
    """

    place: float
    place_sem: float
    difference: float
    difference_sem: float
    difference_at: float
    resampled: Float64[np.ndarray, " resamples"]


def inversion(
    x: Real[np.ndarray, " T"],
    first: Float[np.ndarray, "T N"],
    other: Float[np.ndarray, "T N"],
    groups: Groups,
    resamples: int = RESAMPLES,
    crossed: bool = False,
) -> Inversion:
    """Find where the average of the other curve falls below that of the first one.

    Args:
        x: In the order of times, ascending or descending, shape (T,).
        first: The first level, per time and datum.
        other: Another level of the same data.
        groups: The grammar of each datum.
        resamples: The number of resamples.
        crossed: Whether all groups measured the same data, see `average`.

    Raises:
        InputError: There are less than 2 resamples.
    """
    check_resamples(resamples)
    above = np.asarray(other, dtype=np.float64) - first
    mean, sem, *_ = average(above, groups, shares=True, crossed=crossed)
    largest = int(mean.argmin())
    found = float(-mean[largest]), float(sem[largest]), float(x[largest])
    freedom = degrees_of_freedom(independent_units(above, groups, crossed))
    freedom = np.where(freedom > 0, freedom, np.nan)
    quantile = stdtrit(freedom, 1 - _ALPHA / len(x))
    bracket = _bracket(mean, quantile * sem)
    if bracket is None:
        return Inversion(np.nan, np.nan, *found, np.full(resamples, np.nan))
    resampled = resampled_means(above, groups, resamples, crossed)[:, bracket]
    places = np.asarray(crossing(x[bracket], resampled, 0.0))
    place = float(crossing(x[bracket], mean[bracket], 0.0))
    error = float(bootstrap_error(places, groups, crossed))
    return Inversion(place, error, *found, places)


def last_inversion(
    inversions: Sequence[Inversion], groups: Groups, crossed: bool = False
) -> tuple[float, float]:
    """Find where the last of several inversions lies, measured on the same data.

    Args:
        inversions: The inversions, at least one, from the same number of resamples.
        groups: The grammar of each datum.
        crossed: Whether all groups measured the same data, see `average`.

    Returns:
        The largest x; NaN if one of them is not significant. And its standard error: that of the
        largest x in each resample.
    """
    places = np.max([found.resampled for found in inversions], axis=0)
    place = float(np.max([found.place for found in inversions]))
    return place, float(bootstrap_error(places, groups, crossed))


def curve_inversion(
    x: Real[np.ndarray, " T"], first: Float[np.ndarray, " T"], other: Float[np.ndarray, " T"]
) -> float:
    """Find where a curve without errors, such as a theory's, falls below the first one.

    Args:
        x: In the order of times, ascending or descending, shape (T,).
        first: The first level.
        other: Another level.

    Returns:
        The x of the crossing; NaN if there is none.
    """
    above = np.asarray(other, dtype=np.float64) - first
    bracket = _bracket(above, np.zeros(len(above)))
    return np.nan if bracket is None else float(crossing(x[bracket], above[bracket], 0.0))


def _bracket(
    above: Float64[np.ndarray, " T"], threshold: Float64[np.ndarray, " T"]
) -> slice | None:
    """Find the indices from the last positive difference to the most negative one after it."""
    significant = np.abs(above) > np.maximum(threshold, RESOLUTION)
    positive = np.flatnonzero(significant & (above > 0))
    negative = np.flatnonzero(significant & (above < 0))
    negative = negative[negative > positive[0]] if len(positive) else negative[:0]
    if not len(negative):
        return None
    end = negative[above[negative].argmin()]
    return slice(int(positive[positive < end][-1]), int(end) + 1)
