"""The distance of a measurement from its theory."""

import math
from typing import Final

import numpy as np
from jaxtyping import Float, Real

from lit_hier.metrics.functional.crossing import transition

WIDTHS: Final = 2.0
"""Half-width of the window of `transition_window`, in widths of the theory's transition."""


def transition_window(
    x: Real[np.ndarray, " T"], theory: Float[np.ndarray, " T"], chance: float
) -> float:
    """Compute the half-width of the window around a transition in which finite trees deviate.

    It is `WIDTHS` times the width of the theory's fall at this depth, from three quarters of the
    way from chance to 1 to one quarter, on the x axis; see `transition`.

    Args:
        x: Ascending or descending, shape (T,).
        theory: The root's predicted belief in the truth, shape (T,).
        chance: The probability that it falls to.

    Returns:
        The half-width; NaN if the curve does not fall through these.
    """
    return WIDTHS * float(transition(x, theory, chance)[1])


def deviation(
    x: Real[np.ndarray, " T"],
    measured: Float[np.ndarray, " T"],
    theory: Float[np.ndarray, " T"],
    critical: float,
    window: float,
    error: Float[np.ndarray, " T"] | None = None,
) -> dict[str, float]:
    """Compare a curve with its prediction.

    Args:
        x: Values of the x axis, shape (T,).
        measured: The curve, shape (T,).
        theory: Its prediction, shape (T,).
        critical: The x of the predicted transition; NaN if there is none.
        window: Half-width of the window around it, see `transition_window`; NaN for none.
        error: Standard error of the distance, shape (T,); by default unknown.

    Returns:
        largest (distance), at (its x), mean, critical, largest_outside and mean_outside: the same
        over the x further than the window from the transition, which are all x if critical or
        window is NaN; NaN if there are none; window, and largest_sem: the error at `at`.
    """
    distance = np.abs(measured - theory).astype(np.float64)
    outside = distance[~(np.abs(x - critical) <= window)]
    at = distance.argmax()
    return {
        "largest": float(distance[at]),
        "at": float(x[at]),
        "mean": float(distance.mean()),
        "critical": critical,
        "largest_outside": float(outside.max()) if len(outside) else math.nan,
        "mean_outside": float(outside.mean()) if len(outside) else math.nan,
        "window": window,
        "largest_sem": math.nan if error is None else float(error[at]),
    }
