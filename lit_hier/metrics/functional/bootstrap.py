r"""Standard errors of what is computed from averages, by the bootstrap.

Units, grammars or the data of one grammar, are drawn with replacement, U of U, and the quantity is
computed from each resample. Its standard deviation over resamples, times
:math:`\sqrt{U / (U - 1)}`, is the standard error: for an average this is `sem`. The draws depend
on a constant seed and on U only.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), Chapters 6 and 8.
"""

from typing import Final

import numpy as np
from jaxtyping import Float64, Real

from lit_hier.errors import InputError
from lit_hier.metrics.functional.averages import RESOLUTION, Groups, count_units

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
    values: Real[np.ndarray, "*shape N"], groups: Groups, resamples: int = RESAMPLES
) -> Float64[np.ndarray, " resamples *shape"]:
    """Average resamples of the units.

    Args:
        values: One number per datum on the last axis.
        groups: The grammar of each datum.
        resamples: The number of resamples.

    Returns:
        The averages of each resample.

    Raises:
        InputError: There are less than 2 resamples.
    """
    check_resamples(resamples)
    units = np.asarray(values, dtype=np.float64)
    names = np.unique(groups)
    if len(names) > 1:
        units = np.stack([units[..., groups == name].mean(-1) for name in names], axis=-1)
    rng, num = generator(), units.shape[-1]
    means = np.empty((resamples, *units.shape[:-1]))
    for k in range(resamples):  # one at a time: all draws of all data together would fill memory
        weights = np.bincount(rng.integers(num, size=num), minlength=num)
        means[k] = units @ weights / num
    return means


def bootstrap_error(
    resampled: Float64[np.ndarray, " resamples *shape"], groups: Groups
) -> Float64[np.ndarray, "*shape"]:
    """Compute the standard error of a quantity from its values in resamples.

    Args:
        resampled: The quantity in each resample; NaN where it does not exist.
        groups: The grammar of each datum.

    Returns:
        The standard error over the resamples in which the quantity exists; NaN for one unit, if
        the quantity does not exist in more than 5 % of them, or if it is the same in all but for
        rounding.
    """
    num = count_units(groups)
    exists = np.isfinite(resampled)
    known = exists.mean(0) >= _MIN_SHARE
    if num < 2 or not known.any():
        return np.full(resampled.shape[1:], np.nan)
    shown = np.where(exists | ~known, resampled, np.nan)
    with np.errstate(invalid="ignore"):
        error = np.nanstd(np.where(known, shown, 0.0), axis=0) * (num / (num - 1)) ** 0.5
    rounding = RESOLUTION * np.abs(np.where(exists, resampled, 0.0)).max(0)
    return np.asarray(np.where(known & (error > rounding), error, np.nan))
