"""Summaries of samples: their mode, mean, median and spread."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int, Real
from scipy.ndimage import gaussian_filter1d

_CELLS: Final = 4000  # of the mode's grid on [-1, 1]: a spacing of 5e-4


def mode(values: Real[np.ndarray, "*shape"]) -> float:
    """Locate the maximum of the density of similarities: "maximum of their distribution".

    The estimator is the maximum of a Gaussian kernel density on [-1, 1] with Silverman's
    bandwidth, 0.9 min(std, h / 1.34) n^(-1/5), reflected at both ends, so that a peak at exactly
    1 (nothing has changed) is found there. The robust width h is the length of the shortest half
    of the data instead of the interquartile range: the same for a Gaussian, but the width of one
    peak where there are two, as at a transition. The density is evaluated on a grid of spacing
    5e-4; of equal maxima the lowest is returned.

    Source: Silverman, "Density Estimation for Statistics and Data Analysis" (1986), Eq. 3.31.

    Args:
        values: Similarities in [-1, 1], any shape, at least one.
    """
    x = np.clip(np.ravel(np.asarray(values, dtype=np.float64)), -1, 1)
    cells = np.bincount(np.rint((x + 1) / 2 * _CELLS).astype(int), minlength=_CELLS + 1)
    density = cells.astype(np.float64)
    density[[0, -1]] *= 2  # the grid's end cells are half as wide
    x.sort()
    half = len(x) // 2
    shortest = (x[half:] - x[: len(x) - half]).min()
    spread = min(x.std(), shortest / 1.34) or x.std()
    bandwidth = 0.9 * spread * len(x) ** -0.2  # in units of similarity; at least half a cell
    smooth = gaussian_filter1d(density, max(bandwidth / 2 * _CELLS, 0.5), mode="mirror")
    return float(np.argmax(smooth) / _CELLS * 2 - 1)


def standard_error(values: Float[np.ndarray, " N"]) -> float:
    """Compute the standard error of the mean, std / sqrt(N) with N - 1 in the variance.

    Args:
        values: One number per sample, shape (N,); the error of one sample is 0.
    """
    n = len(values)
    return float(values.std(ddof=1, dtype=np.float64)) / n**0.5 if n > 1 else 0.0


def std_between(values: Float[np.ndarray, " N"], groups: Int[np.ndarray, " N"]) -> float:
    """Compute the standard deviation of G groups' means, with G - 1 in the variance.

    Args:
        values: One number per sample, shape (N,).
        groups: The group of each sample, shape (N,); the deviation of one group is 0.
    """
    means = [values[groups == group].mean(dtype=np.float64) for group in np.unique(groups)]
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def summarize(values: Float[np.ndarray, " N"]) -> dict[str, float | int]:
    """Summarize the samples of one curve at one time.

    Args:
        values: One number per sample, shape (N,), N at least 1.

    Returns:
        mode, mean, median, std (with N - 1 in the variance), sem and count.
    """
    x = np.asarray(values, dtype=np.float64)
    sem = standard_error(x)
    return {
        "mode": mode(x),
        "mean": float(x.mean()),
        "median": float(np.median(x)),
        "std": sem * len(x) ** 0.5,
        "sem": sem,
        "count": len(x),
    }
