"""Where a curve has its maximum, and where it falls or rises most steeply."""

from typing import Final

import numpy as np
from jaxtyping import Float64, Real
from scipy.special import ndtr, stdtrit

from lit_hier.metrics.functional.crossing import FloatOrArray

_LOW: Final = 0.7  # of the largest value
_LEAST: Final = 0.1  # weight
_SIGNIFICANT: Final = 3.0  # standard deviations


def peak(x: Real[np.ndarray, " T"], y: Real[np.ndarray, "*shape T"]) -> FloatOrArray:
    """Find the maximum of positive curves, by a parabola fitted around the largest value.

    The parabola is that of least squares, with weights that fall linearly from 1 for the largest
    value to 0 for 0.7 of it; its neighbors have at least 0.1. As no weight jumps, the place is a
    smooth function of noisy values, of which the bootstrap tells the error.

    Args:
        x: Ascending, shape (T,).
        y: Values, shape (*shape, T); NaN is ignored.

    Returns:
        Its x, float64, shape (*shape); NaN if the largest value is not positive, or is the first
        or the last one that is known, or a neighbor is not known: the maximum may lie elsewhere.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 3:
        return np.full(y.shape[:-1], np.nan)[()]
    values = np.where(np.isfinite(y), y, -np.inf)
    k = values.argmax(-1)
    inside = np.clip(k, 1, len(x) - 2)
    around = abs(np.arange(len(x)) - inside[..., None]) <= 1
    top = np.take_along_axis(values, inside[..., None], -1)
    known = (k == inside) & (top[..., 0] > 0) & (np.isfinite(y) | ~around).all(-1)
    scaled = np.where(known[..., None] & np.isfinite(y), y, 0.0)
    scaled = scaled / np.where(known[..., None], top, 1.0)
    weights = np.maximum((scaled - _LOW) / (1 - _LOW), np.where(around, _LEAST, 0.0))
    kept = weights > 0
    # On an axis from -1 to 1, and in units of the largest value.
    low, high = np.where(kept, x, np.inf).min(-1), np.where(kept, x, -np.inf).max(-1)
    center, half = (low + high) / 2, (high - low) / 2
    z = (x - center[..., None]) / half[..., None]
    powers = z[..., None] ** np.arange(3)
    transposed = np.swapaxes(powers * weights[..., None], -1, -2)
    fitted = np.linalg.solve(transposed @ powers, transposed @ scaled[..., None])
    _, linear, quadratic = np.moveaxis(fitted[..., 0], -1, 0)
    maximum = quadratic < 0
    place = center - half * linear / (2 * np.where(maximum, quadratic, 1.0))
    inner = known & maximum & (abs(place - center) <= half)
    found: FloatOrArray = np.where(inner, place, np.nan)[()]
    return found


def significant_peak(
    x: Real[np.ndarray, " T"],
    y: Real[np.ndarray, " T"],
    sem: Real[np.ndarray, " T"],
    num_units: int,
) -> float:
    """Find the maximum of a measured curve, if the curve is lower at both of its ends.

    Args:
        x: Ascending, shape (T,).
        y: Values, shape (T,); NaN is ignored.
        sem: Their standard errors, shape (T,).
        num_units: The independent units that the errors come from.

    Returns:
        The `peak`; NaN for one unit, or unless it is above the first and the last value that are
        known by more than t standard errors of the difference, with Student's quantile t for
        num_units - 1 degrees of freedom that has the probability of 3 standard deviations.
    """
    known = np.flatnonzero(np.isfinite(y))
    if len(known) < 3 or num_units < 2:
        return np.nan
    top, ends = known[y[known].argmax()], known[[0, -1]]
    height = y[top] - y[ends]
    quantile = stdtrit(num_units - 1, ndtr(_SIGNIFICANT))
    if not (height > quantile * np.hypot(sem[top], np.nan_to_num(sem[ends]))).all():
        return np.nan
    return float(peak(x, y))


def steepest(
    x: Real[np.ndarray, " T"], y: Real[np.ndarray, "*shape T"], falling: bool = True
) -> FloatOrArray:
    """Find where curves fall, or rise, most steeply: the `peak` of their difference quotients.

    Args:
        x: Ascending, shape (T,).
        y: Values, shape (*shape, T).
        falling: Whether to look for a fall.

    Returns:
        Its x, float64, shape (*shape); NaN where `peak` does not exist.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    slope: Float64[np.ndarray, ...] = np.diff(y, axis=-1) / np.diff(x)
    return peak((x[1:] + x[:-1]) / 2, -slope if falling else slope)
