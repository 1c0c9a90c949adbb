"""The position and the width of a transition: where a curve falls through a level."""

import math
from typing import Final

import numpy as np
from jaxtyping import Real

_QUARTERS: Final = (0.75, 0.25)


def crossing(x: Real[np.ndarray, " T"], y: Real[np.ndarray, " T"], level: float) -> float:
    """Find where a falling curve first reaches a level, by linear interpolation.

    Args:
        x: Ascending, shape (T,).
        y: Values, shape (T,).
        level: The level.

    Returns:
        The x of the crossing; NaN if the curve starts below the level or never falls to it.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    below = np.flatnonzero(y <= level)
    if not len(below):
        return math.nan
    k = int(below[0])
    if k == 0:
        return float(x[0]) if y[0] == level else math.nan
    return float(x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] - level) / (y[k - 1] - y[k]))


def transition(
    x: Real[np.ndarray, " T"], y: Real[np.ndarray, " T"], chance: float
) -> tuple[float, float]:
    """Find the position and the width of a curve's fall from 1 to chance.

    Args:
        x: Ascending, shape (T,).
        y: Probabilities, shape (T,).
        chance: The probability that the curve falls to, below 1.

    Returns:
        The x of the midpoint of the transition, and the distance in x between three quarters and
        one quarter of the height; NaN where the curve does not reach these, or chance is 1.
    """
    if chance >= 1:
        return math.nan, math.nan
    half, high, low = (crossing(x, y, chance + q * (1 - chance)) for q in (0.5, *_QUARTERS))
    return half, low - high
