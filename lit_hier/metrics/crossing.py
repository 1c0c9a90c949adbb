"""Where a curve falls through a level: the place and the width of a transition."""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

_QUARTERS: Final = (0.75, 0.25)


def crossing(x: ArrayLike, y: ArrayLike, level: float) -> float:
    """Find where a falling curve first reaches a level, between points by a straight line.

    Args:
        x: Ascending, shape (T,).
        y: Values, shape (T,).
        level: The value looked for.

    Returns:
        The place; NaN where the curve starts below the level or never falls to it.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    below = np.flatnonzero(y <= level)
    if not len(below):
        return math.nan
    k = int(below[0])
    if k == 0:
        return float(x[0]) if y[0] == level else math.nan
    return float(x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] - level) / (y[k - 1] - y[k]))


def transition(x: ArrayLike, y: ArrayLike, chance: float) -> tuple[float, float]:
    """Find where a curve falls from 1 to chance, and how fast.

    Args:
        x: Ascending, shape (T,).
        y: Probabilities, shape (T,).
        chance: Where they end, below 1; from 1 to 1 there is no way to fall.

    Returns:
        Where the curve is half way, and how far apart it is three quarters and one quarter of the
        way up; NaN where it does not get there.
    """
    if chance >= 1:
        return math.nan, math.nan
    half, high, low = (crossing(x, y, chance + q * (1 - chance)) for q in (0.5, *_QUARTERS))
    return half, low - high
