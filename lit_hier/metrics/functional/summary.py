"""Summaries of samples: their mode, mean, median and spread, with errors."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Real
from scipy.ndimage import gaussian_filter1d

from lit_hier.errors import InputError
from lit_hier.metrics.functional.averages import RESOLUTION, Groups, average, count_data, wilson
from lit_hier.metrics.functional.bootstrap import bootstrap_error, check_resamples, generator

_CELLS: Final = 4000  # of the mode's grid on [-1, 1]: a spacing of 5e-4
_CELLS_PER_BANDWIDTH: Final = 4  # of the grid for resamples
MODE_RESAMPLES: Final = 100
"""The default number of resamples for the error of a mode: it is then known to 7 %."""


def check_bandwidth(bandwidth: float | None) -> None:
    """Reject bandwidths that smooth nothing or everything.

    Args:
        bandwidth: In units of similarity; None for Silverman's.

    Raises:
        InputError: The bandwidth is not from 5e-4, the grid's spacing, to 1.
    """
    if bandwidth is not None and not 2 / _CELLS <= bandwidth <= 1:
        raise InputError(
            f"bandwidth is {bandwidth}; give a width in similarity from {2 / _CELLS:g} to 1, or"
            " omit it for Silverman's rule"
        )


def mode_bandwidth(values: Real[np.ndarray, "*shape"]) -> float:
    """Compute the bandwidth of `mode`: Silverman's, 0.9 min(std, h / 1.34) n^(-1/5).

    The robust width h is the length of the shortest half of the data instead of the interquartile
    range: the same for a Gaussian, but the width of one peak where there are two, as at a
    transition. It is at least half the grid's spacing, 2.5e-4.

    Source: Silverman, "Density Estimation for Statistics and Data Analysis" (1986), Eq. 3.31.

    Args:
        values: Similarities in [-1, 1], any shape, at least one.
    """
    x = np.sort(_similarities(values))
    half = len(x) // 2
    shortest = (x[half:] - x[: len(x) - half]).min()
    spread = min(x.std(), shortest / 1.34) or x.std()
    return max(float(0.9 * spread * len(x) ** -0.2), 1 / _CELLS)


def mode(values: Real[np.ndarray, "*shape"], bandwidth: float | None = None) -> float:
    """Locate the maximum of the density of similarities: "maximum of their distribution".

    The estimator is the maximum of a Gaussian kernel density on [-1, 1], reflected at both ends,
    so that a peak at exactly 1 (nothing has changed) is found there. The density is evaluated on a
    grid of spacing 5e-4; of equal maxima the lowest is returned.

    Where a share of the samples is exactly 1, the density has an atom there, whose smoothed height
    grows as the bandwidth falls: the mode then depends on the bandwidth and, through Silverman's
    rule, on the number of samples.

    Args:
        values: Similarities in [-1, 1], any shape, at least one.
        bandwidth: The kernel's standard deviation in similarity, at least half the grid's
            spacing; by default `mode_bandwidth`.
    """
    width = mode_bandwidth(values) if bandwidth is None else bandwidth
    return float(_maximum(_counts(_similarities(values), _CELLS), width))


def mode_error(
    values: Real[np.ndarray, " N"],
    groups: Groups,
    bandwidth: float,
    resamples: int = MODE_RESAMPLES,
    crossed: bool = False,
) -> float:
    """Compute the standard error of the mode, by the bootstrap at a fixed bandwidth.

    Grammars are resampled or, with one grammar, its data, or both where all groups measured the
    same data, on a grid of four cells per bandwidth.
    The error is that at this bandwidth: the default one varies with the sample as well, by which
    the error was up to a third too large for skewed data, and up to twice for data with an atom
    at 1. Where an atom is larger than all other peaks, the mode does not vary.

    Args:
        values: Similarities in [-1, 1], at least one.
        groups: The grammar of each datum.
        bandwidth: Of the mode.
        resamples: The number of resamples.
        crossed: Whether all groups measured the same data, see `average`.

    Returns:
        The standard error, at least the resolution of the mode's grid, 1.4e-4; NaN for one unit,
        or if all values are equal.

    Raises:
        InputError: There are less than 2 resamples.
    """
    check_resamples(resamples)
    x = _similarities(values)
    if np.ptp(x) <= RESOLUTION:
        return float("nan")
    num_cells = int(np.clip(np.ceil(2 * _CELLS_PER_BANDWIDTH / bandwidth), 8, _CELLS))
    names = np.unique(groups)
    counts = np.stack([_counts(x[groups == name], num_cells) for name in names])
    num = len(names)
    if num > 1 and crossed:
        resampled = _resample_crossed([x[groups == name] for name in names], num_cells, resamples)
    elif num > 1:
        resampled = generator().multinomial(num, np.full(num, 1 / num), resamples) @ counts
    else:
        filled = np.flatnonzero(counts[0])
        resampled = np.zeros((resamples, num_cells + 1), dtype=np.int64)
        shares = counts[0, filled] / len(x)
        resampled[:, filled] = generator().multinomial(len(x), shares, resamples)
    error = float(np.nan_to_num(bootstrap_error(_peak(resampled, bandwidth), groups, crossed)))
    return max(error, 2 / _CELLS / 12**0.5)


def _similarities(values: Real[np.ndarray, "*shape"]) -> Float64[np.ndarray, " N"]:
    return np.clip(np.ravel(np.asarray(values, dtype=np.float64)), -1, 1)


def _resample_crossed(
    parts: Sequence[Float64[np.ndarray, " N"]], num_cells: int, resamples: int
) -> Int[np.ndarray, "resamples cells"]:
    """Count similarities of resampled groups, all with the same resampled data."""
    rng, num = generator(), min(map(len, parts))
    found = []
    for _ in range(resamples):
        data = rng.integers(num, size=num)
        chosen = rng.integers(len(parts), size=len(parts))
        found.append(_counts(np.concatenate([parts[k][data] for k in chosen]), num_cells))
    return np.stack(found)


def _counts(x: Float64[np.ndarray, " N"], num_cells: int) -> Int[np.ndarray, " cells"]:
    """Count similarities around the points of a grid on [-1, 1]."""
    return np.bincount(np.rint((x + 1) / 2 * num_cells).astype(int), minlength=num_cells + 1)


def _maximum(
    counts: Int[np.ndarray, "*shape cells"], bandwidth: float
) -> Float64[np.ndarray, "*shape"]:
    """Locate the maximum of the smoothed density of counts, one of the grid's points."""
    smooth = _smooth(counts, bandwidth)
    return np.asarray(np.argmax(smooth, axis=-1) / (counts.shape[-1] - 1) * 2 - 1)


def _peak(
    counts: Int[np.ndarray, "*shape cells"], bandwidth: float
) -> Float64[np.ndarray, "*shape"]:
    """Locate the maximum between the grid's points, by a parabola through the highest three."""
    smooth, last = _smooth(counts, bandwidth), counts.shape[-1] - 1
    k = np.argmax(smooth, axis=-1)
    around = np.abs(k[..., None] + (-1, 0, 1))  # reflected at both ends
    left, top, right = np.moveaxis(
        np.take_along_axis(smooth, np.minimum(around, 2 * last - around), -1), -1, 0
    )
    curvature = left - 2 * top + right
    shift = np.divide((left - right) / 2, curvature, out=np.zeros_like(top), where=curvature < 0)
    return np.asarray((k + shift) / last * 2 - 1)


def _smooth(
    counts: Int[np.ndarray, "*shape cells"], bandwidth: float
) -> Float64[np.ndarray, "*shape cells"]:
    """Smooth the density of counts, reflected at both ends."""
    density = counts.astype(np.float64)
    density[..., [0, -1]] *= 2  # the grid's end cells are half as wide
    width = max(bandwidth / 2 * (counts.shape[-1] - 1), 0.5)
    return np.asarray(gaussian_filter1d(density, width, axis=-1, mode="mirror"))


def summarize(
    values: Float[np.ndarray, " N"],
    groups: Groups | None = None,
    identical: Bool[np.ndarray, " N"] | None = None,
    bandwidth: float | None = None,
    resamples: int = MODE_RESAMPLES,
    crossed: bool = False,
) -> dict[str, float | int]:
    """Summarize the similarities of one curve at one time.

    Args:
        values: One number per sample, N at least 1.
        groups: The grammar of each sample; by default one for all.
        identical: Whether x_reversed equals x_start.
        bandwidth: Of the mode, see `mode`.
        resamples: The number of resamples for the mode's error.
        crossed: Whether all groups measured the same data, see `average`.

    Returns:
        mode, mean, median, std (over samples, with N - 1 in the variance; NaN for one), sem,
        count, sem_within, see `average`, mode_sem, see `mode_error`, bandwidth, and, if
        `identical` is given, identical (the share), identical_low and identical_high, see
        `wilson`. If all samples are identical, the errors are NaN.

    Raises:
        InputError: The bandwidth is out of range, or there are less than 2 resamples.
    """
    check_bandwidth(bandwidth)
    x = np.asarray(values, dtype=np.float64)
    which = np.zeros(len(x), dtype=np.int64) if groups is None else groups
    width = mode_bandwidth(x) if bandwidth is None else bandwidth
    found = average(x, which, crossed=crossed)
    summary: dict[str, float | int] = {
        "mode": mode(x, width),
        "mean": float(found.mean),
        "median": float(np.median(x)),
        "std": float(x.std(ddof=1)) if len(x) > 1 else float("nan"),
        "sem": float(found.sem),
        "count": count_data(which, crossed),
        "sem_within": float(found.sem_within),
        "mode_sem": mode_error(x, which, width, resamples, crossed),
        "bandwidth": width,
    }
    if identical is not None:
        shares = identical.astype(np.float64)
        low, high = wilson(shares, which, crossed)
        share = float(average(shares, which).mean)
        summary |= {"identical": share, "identical_low": float(low), "identical_high": float(high)}
        if identical.all():
            summary |= dict.fromkeys(("sem", "sem_within", "mode_sem"), float("nan"))
    return summary
