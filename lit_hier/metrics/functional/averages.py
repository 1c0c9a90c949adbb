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
"""

from typing import Final, NamedTuple

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


def average(values: Real[np.ndarray, "*shape N"], groups: Groups, shares: bool = False) -> Average:
    """Average data of one or several grammars: see the module.

    Args:
        values: One number per datum on the last axis, N at least 1.
        groups: The grammar of each datum.
        shares: Whether the values are random even if all of them are equal: they count something,
            as the share of unchanged nodes does, or the corruption of the data is random.
    """
    x = np.asarray(values, dtype=np.float64)
    parts = [x[..., groups == group] for group in np.unique(groups)]
    means = np.stack([part.mean(-1) for part in parts], axis=-1)
    within = np.stack([_variance_of_mean(part) for part in parts], axis=-1)
    sem_within = np.asarray(np.sqrt(within.sum(-1)) / len(parts))
    between = np.asarray(np.sqrt(_variance_of_mean(means)))
    mean = np.asarray(means.mean(-1))
    constant = np.ptp(x, axis=-1) <= RESOLUTION
    at_end = shares | (np.abs(mean - np.rint(mean)) <= RESOLUTION)

    def known(error: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        return np.asarray(np.where(np.where(constant, at_end, error < _TINY), np.nan, error))

    return Average(
        mean,
        known(between if len(parts) > 1 else sem_within),
        known(sem_within),
        np.asarray(between * len(parts) ** 0.5),
    )


def wilson(
    values: Real[np.ndarray, "*shape N"], groups: Groups
) -> tuple[Float64[np.ndarray, "*shape"], Float64[np.ndarray, "*shape"]]:
    r"""Compute Wilson's 95 % confidence interval of a share, averaged as by `average`.

    The share's effective number of independent data is :math:`\bar x (1 - \bar x) /
    \mathrm{sem}^2`, times :math:`(z / t_{U - 1})^2`, the squared ratio of the quantiles of the
    normal and of Student's distribution, for U units; it is at least U, as a unit's value lies in
    [0, 1]. Where `sem` is NaN, the number of data takes the place of the ratio. For one grammar
    and one node per datum this is Wilson's interval of N independent data.

    Source: Wilson, "Probable inference" (1927); for the effective number, Korn and Graubard,
    "Confidence intervals for proportions with small expected number of positive counts" (1998).

    Args:
        values: A share in [0, 1] per datum, such as that of its nodes that are unchanged.
        groups: The grammar of each datum.

    Returns:
        The lower and the upper end, float64, shape (*shape).
    """
    found = average(values, groups, shares=True)
    share = np.asarray(np.clip(found.mean, 0, 1))
    num_units = count_units(groups)
    z = ndtri((1 + _CONFIDENCE) / 2)
    ratio = np.full_like(share, len(groups))
    np.divide(share * (1 - share), found.sem**2, out=ratio, where=np.isfinite(found.sem))
    if num_units > 1:
        ratio *= (z / stdtrit(num_units - 1, (1 + _CONFIDENCE) / 2)) ** 2
    n = np.maximum(ratio, num_units)
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = np.clip(center - half, 0, share), np.clip(center + half, share, 1)
    return np.asarray(low), np.asarray(high)


def count_units(groups: Groups) -> int:
    """Count the independent units: the grammars or, with one grammar, its data."""
    num_groups = len(np.unique(groups))
    return num_groups if num_groups > 1 else len(groups)


def _variance_of_mean(values: Float64[np.ndarray, "*shape N"]) -> Float64[np.ndarray, "*shape"]:
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values.var(-1, ddof=1) / n)
