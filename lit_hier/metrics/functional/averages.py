r"""Averages over data of several grammars, with errors that count grammars as independent.

Data of one grammar share its rules, so their average tells about this grammar; what is reported is
the average over grammars. With :math:`\bar x_g` the mean of the :math:`n_g` data of grammar g,
:math:`s_g^2` their variance and G grammars, the estimate and its standard errors are

.. math::
   \bar x = \frac{1}{G} \sum_g \bar x_g, \qquad
   \mathrm{sem}^2 = \frac{1}{G (G - 1)} \sum_g (\bar x_g - \bar x)^2, \qquad
   \mathrm{sem}_\mathrm{within}^2 = \frac{1}{G^2} \sum_g \frac{s_g^2}{n_g}

Each grammar has the same weight, for which :math:`\mathrm{sem}^2` is unbiased whatever the numbers
of data. :math:`\mathrm{sem}_\mathrm{within}` is the part of the error that more data of the same
grammars would reduce. With one grammar both are the standard error over its data.

The units are the grammars or, with one grammar, its data.

Groups are crossed if all of them measured the same N data, as several networks that denoise the
same :math:`x_t` do. More groups then do not reduce the error of the data: with
:math:`\bar x_i` the mean of datum i over the G groups,

.. math::
   \mathrm{sem}^2 = \frac{1}{N (N - 1)} \sum_i (\bar x_i - \bar x)^2
      + \frac{1}{G (G - 1)} \sum_g (\bar x_g - \bar x)^2

and :math:`\mathrm{sem}_\mathrm{within}^2` is the first term. Data and groups both are units, with
the effective degrees of freedom of Satterthwaite, "An approximate distribution of estimates of
variance components" (1946). One group is as one grammar.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Real
from scipy.special import ndtri, stdtrit

RESOLUTION: Final = 1e-6
"""Differences between float32 averages that may be rounding."""

_CONFIDENCE: Final = 0.95
_TINY: Final = 1e-12  # rounding of float64 averages of numbers up to 1

Groups = Int[np.ndarray, " N"]


class Average(NamedTuple):
    """An average over grammars, and its errors.

    An error is NaN where the sample does not tell it: for one unit; where all values are 0, or 1
    or -1, the ends of a probability or of a cosine, as rarer values may have been missed; where
    values differ but the units' means agree by chance; where all shares are equal.

    Attributes:
        mean: Mean over data, then over grammars, float64, shape (*shape), as all fields.
        sem: Standard error of `mean`, as an estimate for all grammars.
        sem_within: Standard error of `mean`, as an estimate for these grammars.
        grammar_std: Standard deviation of the grammars' means; NaN for one grammar.
    """

    mean: Float64[np.ndarray, "*shape"]
    sem: Float64[np.ndarray, "*shape"]
    sem_within: Float64[np.ndarray, "*shape"]
    grammar_std: Float64[np.ndarray, "*shape"]


def average(
    values: Real[np.ndarray, "*shape N"],
    groups: Groups,
    shares: bool = False,
    crossed: bool = False,
) -> Average:
    """Average data of one or several grammars: see the module.

    Args:
        values: One number per datum on the last axis, N at least 1.
        groups: The grammar of each datum.
        shares: Whether the values are random even if all of them are equal: they count something,
            as the share of unchanged nodes does, or the corruption of the data is random.
        crossed: Whether all groups measured the same data, in the same order.
    """
    x = np.asarray(values, dtype=np.float64)
    parts = _split(x, groups)
    means = np.stack([part.mean(-1) for part in parts], axis=-1)
    units = independent_units(x, groups, crossed)
    if crossed:
        sem_within = np.asarray(np.sqrt(_variance_of_mean(units[0])))
    else:
        within = np.stack([_variance_of_mean(part) for part in parts], axis=-1)
        sem_within = np.asarray(np.sqrt(within.sum(-1)) / len(parts))
    mean = np.asarray(means.mean(-1))
    constant = np.ptp(x, axis=-1) <= RESOLUTION
    at_end = shares | (np.abs(mean - np.rint(mean)) <= RESOLUTION)

    def known(error: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        return np.asarray(np.where(np.where(constant, at_end, error < _TINY), np.nan, error))

    return Average(
        mean,
        known(standard_error(units)),
        known(sem_within),
        np.asarray(np.sqrt(_variance_of_mean(means)) * len(parts) ** 0.5),
    )


def wilson(
    values: Real[np.ndarray, "*shape N"], groups: Groups, crossed: bool = False
) -> tuple[Float64[np.ndarray, "*shape"], Float64[np.ndarray, "*shape"]]:
    r"""Compute Wilson's 95 % confidence interval of a share, averaged as by `average`.

    The share's effective number of independent data is :math:`\bar x (1 - \bar x) /
    \mathrm{sem}^2`, times :math:`(z / t_{U - 1})^2`, the squared ratio of the quantiles of the
    normal and of Student's distribution, for U units; it is at least U, as a unit's value lies in
    [0, 1]. Where `sem` is NaN, the number of data takes the place of the ratio. For one grammar
    and one node per datum this is Wilson's interval of N independent data. For crossed groups
    U - 1 are the effective degrees of freedom of the module.

    Source: Wilson, "Probable inference" (1927); for the effective number, Korn and Graubard,
    "Confidence intervals for proportions with small expected number of positive counts" (1998).

    Args:
        values: A share in [0, 1] per datum, such as that of its nodes that are unchanged.
        groups: The grammar of each datum.
        crossed: Whether all groups measured the same data, in the same order.

    Returns:
        The lower and the upper end, float64, shape (*shape).
    """
    found = average(values, groups, shares=True, crossed=crossed)
    share = np.asarray(np.clip(found.mean, 0, 1))
    freedom = degrees_of_freedom(independent_units(values, groups, crossed))
    z = ndtri((1 + _CONFIDENCE) / 2)
    ratio = np.full_like(share, count_data(groups, crossed))
    np.divide(share * (1 - share), found.sem**2, out=ratio, where=np.isfinite(found.sem))
    student = stdtrit(np.maximum(freedom, 1), (1 + _CONFIDENCE) / 2)
    ratio *= np.where(freedom > 0, z / student, 1.0) ** 2
    n = np.maximum(ratio, freedom + 1)
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = np.clip(center - half, 0, share), np.clip(center + half, share, 1)
    return np.asarray(low), np.asarray(high)


def independent_units(
    values: Real[np.ndarray, "*shape N"], groups: Groups, crossed: bool = False
) -> list[Float64[np.ndarray, "..."]]:
    """Return the values of the independent units, of which the average is the mean.

    Args:
        values: One number per datum on the last axis.
        groups: The grammar of each datum.
        crossed: Whether all groups measured the same data, in the same order; where the last data
            of a group are missing, only those that all groups have are units.

    Returns:
        One array, with units on the last axis: the means of the grammars or, with one grammar, its
        data. For several crossed groups two: the means of the data over groups, and those of the
        groups.
    """
    parts = _split(np.asarray(values, dtype=np.float64), groups)
    if len(parts) == 1:
        return parts
    means = np.stack([part.mean(-1) for part in parts], axis=-1)
    if not crossed:
        return [means]
    num = min(part.shape[-1] for part in parts)
    return [np.asarray(sum(part[..., :num] for part in parts)) / len(parts), means]


def standard_error(
    units: Sequence[Float64[np.ndarray, "..."]],
) -> Float64[np.ndarray, "..."]:
    """Compute the standard error of an average, to which all kinds of units contribute.

    Args:
        units: What `independent_units` returns.
    """
    return np.asarray(np.sqrt(sum(_variance_of_mean(x) for x in units)))


def degrees_of_freedom(
    units: Sequence[Float64[np.ndarray, "..."]],
) -> Float64[np.ndarray, "..."]:
    """Compute the degrees of freedom of `standard_error`: units - 1 for one kind of units.

    For two kinds they are effective ones; those of the first kind where nothing varies.

    Args:
        units: What `independent_units` returns.
    """
    numbers = [x.shape[-1] - 1 for x in units]
    freedom = np.full(units[0].shape[:-1], float(numbers[0]))
    if len(units) == 1 or numbers[0] < 1:
        return freedom
    parts = [_variance_of_mean(x) for x in units]
    squares = np.asarray(sum(x**2 / num for x, num in zip(parts, numbers, strict=True)))
    total = np.asarray(sum(parts)) ** 2
    np.divide(total, squares, out=freedom, where=total > _TINY**4)
    return freedom


def count_units(groups: Groups, crossed: bool = False) -> int:
    """Count the independent units: the grammars or, with one grammar or crossed groups, data."""
    num_groups = len(np.unique(groups))
    return num_groups if num_groups > 1 and not crossed else count_data(groups, crossed)


def count_data(groups: Groups, crossed: bool = False) -> int:
    """Count the data; those that several crossed groups measured count once."""
    return int(np.unique(groups, return_counts=True)[1].max()) if crossed else len(groups)


def _split(values: Float64[np.ndarray, "*shape N"], groups: Groups) -> list[Any]:
    return [values[..., groups == group] for group in np.unique(groups)]


def _variance_of_mean(values: Float64[np.ndarray, "*shape N"]) -> Float64[np.ndarray, "*shape"]:
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values.var(-1, ddof=1) / n)
