r"""Finite-size scaling: the exponent of widths, and how well curves of several sizes collapse.

The width of a transition at depth L falls as :math:`s^{-L / \nu}`, and curves of all depths are
one function of :math:`(\epsilon - \epsilon^*) \, s^{L / \nu}`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64


class Exponent(NamedTuple):
    r"""An exponent and its error.

    Attributes:
        value: nu; NaN if fewer than two widths are known, or they do not fall.
        sem: Its standard error, multiplied by the Birge ratio :math:`\sqrt{\chi^2 / (k - 2)}` of
            the fit to k widths where that is above 1; NaN if an error of a width is unknown.
    """

    value: float
    sem: float


def fit_exponent(
    log_size: Float64[np.ndarray, " depths"],
    width: Float64[np.ndarray, " depths"],
    sem: Float64[np.ndarray, " depths"],
) -> Exponent:
    r"""Fit :math:`\ln w = c - \frac{1}{\nu} L \ln s` by least squares, weighted by the errors.

    Corrections to scaling enter the error only as far as the widths depart from the line: on the
    mean field's own curves for (v, m, s) = (32, 8, 2), the fit gives 1.867 for L = 7 to 10, 1.873
    for L = 7 to 12, and 1.893 as L grows.

    Args:
        log_size: L ln s of each depth.
        width: Widths w; NaN is ignored.
        sem: Their standard errors; without any, all have the same weight.
    """
    known = np.isfinite(width) & (width > 0)
    x, y = log_size[known], np.log(width[known])
    error = sem[known] / width[known]
    if len(np.unique(x)) < 2:
        return Exponent(np.nan, np.nan)
    has_errors = bool((error > 0).all())
    weight = error**-2.0 if has_errors else np.ones_like(x)
    center = np.average(x, weights=weight)
    total = weight @ (x - center) ** 2
    slope = weight @ ((x - center) * y) / total
    if slope >= 0:
        return Exponent(np.nan, np.nan)
    sem_slope = np.nan
    if has_errors:
        residual = y - np.average(y, weights=weight) - slope * (x - center)
        reduced = weight @ residual**2 / max(1, len(x) - 2)
        sem_slope = total**-0.5 * max(1.0, reduced**0.5)
    return Exponent(float(-1 / slope), float(sem_slope / slope**2))


def collapse_spread(
    scaled: Sequence[Float64[np.ndarray, " _"]], curves: Sequence[Float64[np.ndarray, " _"]]
) -> float:
    """Return the largest distance of two curves, at an x that both have.

    Args:
        scaled: Scaled x of each curve, ascending, each of shape (T,); at least one curve.
        curves: The curves, interpolated linearly, each of shape (T,).

    Returns:
        The distance; NaN if no x is common, or a curve has NaN.
    """
    low, high = max(x[0] for x in scaled), min(x[-1] for x in scaled)
    x = np.unique(np.concatenate(scaled))
    x = x[(x >= low) & (x <= high)]
    if not len(x):
        return np.nan
    pairs = zip(scaled, curves, strict=True)
    values = np.stack([np.interp(x, where, curve) for where, curve in pairs])
    return float(np.ptp(values, axis=0).max())
