"""The place and the width of a transition: where a curve falls through a level."""

from typing import Final

import numpy as np
from jaxtyping import Float64, Real

from lit_hier.metrics.functional.averages import Groups
from lit_hier.metrics.functional.bootstrap import RESAMPLES, bootstrap_error, resampled_means

_QUARTERS: Final = (0.75, 0.25)

FloatOrArray = np.float64 | Float64[np.ndarray, "..."]
"""A scalar for one curve, else an array."""


def crossing(
    x: Real[np.ndarray, " T"], y: Real[np.ndarray, "*shape T"], level: float
) -> FloatOrArray:
    """Find where falling curves first reach a level, by linear interpolation.

    Args:
        x: Ascending or descending, shape (T,).
        y: Values, shape (*shape, T).
        level: The level.

    Returns:
        The x of the crossing, float64, shape (*shape); NaN for a curve that starts below the level
        or never falls to it.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    below = y <= level
    k = below.argmax(-1)
    before = np.maximum(k - 1, 0)
    high, low = (np.take_along_axis(y, i[..., None], -1)[..., 0] for i in (before, k))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = x[before] + (x[k] - x[before]) * (high - level) / (high - low)
    start = np.where(low == level, x[0], np.nan)
    place = np.where(below.any(-1), np.where(k > 0, between, start), np.nan)
    unwrapped: FloatOrArray = place[()]
    return unwrapped


def transition(
    x: Real[np.ndarray, " T"], y: Real[np.ndarray, "*shape T"], chance: float
) -> tuple[FloatOrArray, FloatOrArray]:
    """Find the place and the width of curves' fall from 1 to chance.

    Args:
        x: Ascending or descending, shape (T,).
        y: Probabilities, shape (*shape, T).
        chance: The probability that the curves fall to, below 1.

    Returns:
        The x of the midpoint of the transition, and the distance in x between three quarters and
        one quarter of the height, float64, shape (*shape); NaN where the curve does not reach
        these, or chance is 1.
    """
    if chance >= 1:
        nan = np.full(np.shape(y)[:-1], np.nan)[()]
        return nan, nan
    half, high, low = (crossing(x, y, chance + q * (1 - chance)) for q in (0.5, *_QUARTERS))
    return half, np.abs(low - high)


def theory_errors(
    x: Real[np.ndarray, " T"],
    theory: Float64[np.ndarray, " T"],
    error: Float64[np.ndarray, " T"],
    chance: float,
) -> tuple[float, float]:
    """Compute the standard errors of a theory's place and width.

    The draws behind a theory are the same at all times, so that an error moves the whole curve.

    Args:
        x: Ascending or descending, shape (T,).
        theory: Probabilities, shape (T,).
        error: Their standard errors, 0 for a closed form, shape (T,).
        chance: The probability that the curve falls to.

    Returns:
        Of the place and of the width; 0 for a closed form; else that of the width, which does not
        follow, is NaN; NaN where there is no transition.
    """
    curves = np.stack((theory - error, theory, theory + error))
    places, widths = (np.asarray(part) for part in transition(x, curves, chance))
    width = float(widths[1]) * 0 if (error == 0).all() else np.nan
    return float(np.ptp(places[::2])) / 2, width


def transition_errors(
    x: Real[np.ndarray, " T"],
    values: Real[np.ndarray, "*shape T N"],
    groups: Groups,
    chance: float,
    resamples: int = RESAMPLES,
    crossed: bool = False,
) -> tuple[Float64[np.ndarray, "*shape"], Float64[np.ndarray, "*shape"]]:
    """Compute the standard errors of average curves' places and widths, by the bootstrap.

    Args:
        x: Ascending or descending, shape (T,).
        values: Probabilities per time and datum, on the last axes.
        groups: The grammar of each datum.
        chance: The probability that the curves fall to.
        resamples: The number of resamples.
        crossed: Whether all groups measured the same data, see `average`.

    Returns:
        Of the place and of the width, float64, shape (*shape); see `bootstrap_error`.

    Raises:
        InputError: There are less than 2 resamples.
    """
    place, width = transition(x, resampled_means(values, groups, resamples, crossed), chance)
    return (
        bootstrap_error(np.asarray(place), groups, crossed),
        bootstrap_error(np.asarray(width), groups, crossed),
    )
