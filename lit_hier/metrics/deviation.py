"""How far a measurement is from its theory."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

WINDOW: Final = 0.04  # around a predicted transition, where finite trees leave the theory


def deviation(
    x: NDArray[np.floating],
    measured: NDArray[np.floating],
    theory: NDArray[np.floating],
    critical: float,
) -> dict[str, float]:
    """Compare a curve with its prediction.

    Args:
        x: What the curves are drawn against, shape (T,).
        measured: Shape (T,).
        theory: Shape (T,).
        critical: The predicted transition; NaN for none.

    Returns:
        largest (distance), at (the x of it), mean, critical, and largest_outside and
        mean_outside: the same over the x further than `WINDOW` from the transition; NaN where
        there are none.
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
