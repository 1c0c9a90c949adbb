"""The distance of a measurement from its theory."""

import math
from typing import Final

import numpy as np
from jaxtyping import Float, Real

WINDOW: Final = 0.04
"""Half-width of the window around a predicted transition in which finite trees deviate."""


def deviation(
    x: Real[np.ndarray, " T"],
    measured: Float[np.ndarray, " T"],
    theory: Float[np.ndarray, " T"],
    critical: float,
) -> dict[str, float]:
    """Compare a curve with its prediction.

    Args:
        x: Values of the x axis, shape (T,).
        measured: The curve, shape (T,).
        theory: Its prediction, shape (T,).
        critical: The x of the predicted transition; NaN if there is none.

    Returns:
        largest (distance), at (its x), mean, critical, and largest_outside and mean_outside: the
        same over the x further than `WINDOW` from the transition; NaN if there are none.
    """
    distance = np.abs(measured - theory).astype(np.float64)
    outside = distance[~(np.abs(x - critical) <= WINDOW)]
    return {
        "largest": float(distance.max()),
        "at": float(x[distance.argmax()]),
        "mean": float(distance.mean()),
        "critical": critical,
        "largest_outside": float(outside.max()) if len(outside) else math.nan,
        "mean_outside": float(outside.mean()) if len(outside) else math.nan,
    }
