r"""Standard errors of what is computed from averages, by the bootstrap.

Units, grammars or the data of one grammar, are drawn with replacement, U of U, and the quantity is
computed from each resample. Its standard deviation over resamples, times
:math:`\sqrt{U / (U - 1)}`, is the standard error: for an average this is `sem`. The draws depend
on a constant seed and on U only. Where all groups measured the same data, data and groups are
drawn independently, and their deviations from the average are added.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), Chapters 6 and 8.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float64, Real

from lit_hier.errors import InputError
from lit_hier.metrics.functional.averages import (
    RESOLUTION,
    Groups,
    count_units,
    independent_units,
)

RESAMPLES: Final = 200
"""The default number of resamples: the errors are then known to 5 %."""

_SEED: Final = 18
_MIN_SHARE: Final = 0.95  # of resamples from which the quantity can be computed


def generator() -> np.random.Generator:
    """Return the random numbers of all bootstraps."""
    return np.random.default_rng(_SEED)


def check_resamples(resamples: int) -> None:
    """Reject numbers of resamples that have no deviation.

    Raises:
        InputError: The number is less than 2.
    """
    if resamples < 2:
        raise InputError(f"resamples is {resamples}; give at least 2, better 100 or more")


def resampled_means(
    values: Real[np.ndarray, "*shape N"],
    groups: Groups,
    resamples: int = RESAMPLES,
    crossed: bool = False,
) -> Float64[np.ndarray, " resamples *shape"]:
    """Average resamples of the units.

    Args:
        values: One number per datum on the last axis.
        groups: The grammar of each datum.
        resamples: The number of resamples.
        crossed: Whether all groups measured the same data, in the same order.

    Returns:
        The averages of each resample.

    Raises:
        InputError: There are less than 2 resamples.
    """
    check_resamples(resamples)
    return resample(independent_units(values, groups, crossed), resamples)


def resample(
    units: Sequence[Float64[np.ndarray, "..."]], resamples: int = RESAMPLES
) -> Float64[np.ndarray, " resamples ..."]:
    """Average resamples of units, of one kind or several: see `independent_units`.

    Args:
        units: The values of each kind of units on the last axis. All kinds have the same mean.
        resamples: The number of resamples.

    Returns:
        The averages of each resample. Deviations of further kinds are scaled so that the factor
        of the first kind, see the module, is that of all.
    """
    first, *others = units
    rng, num = generator(), first.shape[-1]
    scales = [(x.shape[-1] / (x.shape[-1] - 1) * (num - 1) / num) ** 0.5 for x in others]
    means = np.empty((resamples, *first.shape[:-1]))
    for k in range(resamples):  # one at a time: all draws of all data together would fill memory
        means[k] = _resample(first, rng)
        for x, scale in zip(others, scales, strict=True):
            means[k] += scale * (_resample(x, rng) - x.mean(-1))
    return means


def _resample(
    units: Float64[np.ndarray, "*shape units"], rng: np.random.Generator
) -> Float64[np.ndarray, "*shape"]:
    num = units.shape[-1]
    weights = np.bincount(rng.integers(num, size=num), minlength=num)
    return np.asarray(units @ weights / num)


def bootstrap_error(
    resampled: Float64[np.ndarray, " resamples *shape"], groups: Groups, crossed: bool = False
) -> Float64[np.ndarray, "*shape"]:
    """Compute the standard error of a quantity from its values in resamples.

    Args:
        resampled: The quantity in each resample; NaN where it does not exist.
        groups: The grammar of each datum.
        crossed: Whether all groups measured the same data, in the same order.

    Returns:
        The standard error over the resamples in which the quantity exists; NaN for one unit, if
        the quantity does not exist in more than 5 % of them, or if it is the same in all but for
        rounding.
    """
    num = count_units(groups, crossed)
    exists = np.isfinite(resampled)
    known = exists.mean(0) >= _MIN_SHARE
    if num < 2 or not known.any():
        return np.full(resampled.shape[1:], np.nan)
    shown = np.where(exists | ~known, resampled, np.nan)
    with np.errstate(invalid="ignore"):
        error = np.nanstd(np.where(known, shown, 0.0), axis=0) * (num / (num - 1)) ** 0.5
    rounding = RESOLUTION * np.abs(np.where(exists, resampled, 0.0)).max(0)
    return np.asarray(np.where(known & (error > rounding), error, np.nan))
