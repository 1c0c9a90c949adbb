"""Where a curve has its maximum, and where it falls or rises most steeply."""

from typing import Final

import numpy as np
from jaxtyping import Float64, Real

from lit_hier.metrics.functional.crossing import FloatOrArray

_SIGNIFICANT: Final = 3.0  # standard errors


def peak(x: Real[np.ndarray, " T"], y: Real[np.ndarray, "*shape T"]) -> FloatOrArray:
    """Find the maximum of curves, by a parabola through the largest value and its neighbors.

    Args:
        x: Ascending, shape (T,).
        y: Values, shape (*shape, T); NaN is ignored.

    Returns:
        Its x, float64, shape (*shape); NaN if the largest value is the first or the last one that
        is known, or a neighbor is not known: the maximum may lie elsewhere.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 3:
        return np.full(y.shape[:-1], np.nan)[()]
    k = np.where(np.isfinite(y), y, -np.inf).argmax(-1)
    inside = np.clip(k, 1, len(x) - 2)
    around = inside[..., None] + np.array([-1, 0, 1])
    left, top, right = np.moveaxis(np.take_along_axis(y, around, -1), -1, 0)
    before, at, after = np.moveaxis(x[around], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise, fall = (top - left) / (at - before), (right - top) / (after - at)
        curvature = (fall - rise) / (after - before)
        place = (before + at) / 2 - rise / (2 * curvature)
    found: FloatOrArray = np.where((k == inside) & (curvature < 0), place, np.nan)[()]
    return found


def significant_peak(
    x: Real[np.ndarray, " T"], y: Real[np.ndarray, " T"], sem: Real[np.ndarray, " T"]
) -> float:
    """Find the maximum of a measured curve, if the curve is lower at both of its ends.

    Args:
        x: Ascending, shape (T,).
        y: Values, shape (T,); NaN is ignored.
        sem: Their standard errors, shape (T,).

    Returns:
        The `peak`; NaN unless it is three standard errors of the difference above the first and
        the last value that are known.
    """
    known = np.flatnonzero(np.isfinite(y))
    if len(known) < 3:
        return np.nan
    top, ends = known[y[known].argmax()], known[[0, -1]]
    height = y[top] - y[ends]
    if not (height > _SIGNIFICANT * np.hypot(sem[top], np.nan_to_num(sem[ends]))).all():
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
