"""How far a measurement is from its theory."""

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
        x: Inversion times, shape (T,).
        measured: Shape (T,).
        theory: Shape (T,).
        critical: The predicted transition; NaN for none.

    Returns:
        largest (distance), at (the time of it), mean, critical, and largest_outside and
        mean_outside: the same over the times further than `WINDOW` from the transition.
    """
    distance = np.abs(measured - theory).astype(np.float64)
    outside = distance[~(np.abs(x - critical) <= WINDOW)]
    return {
        "largest": float(distance.max()),
        "at": float(x[distance.argmax()]),
        "mean": float(distance.mean()),
        "critical": critical,
        "largest_outside": float(outside.max(initial=0)),
        "mean_outside": float(outside.mean()) if len(outside) else 0.0,
    }
