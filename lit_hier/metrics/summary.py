"""What a curve shows of many samples: their mode, mean, median and spread."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

_CELLS: Final = 4000  # of the mode's grid on [-1, 1]: a spacing of 5e-4


def mode(values: ArrayLike) -> float:
    """Where the density of similarities is largest: the paper's "maximum of their distribution".

    The estimator is the maximum of a Gaussian kernel density on [-1, 1] with Silverman's
    bandwidth, 0.9 min(std, h / 1.34) n^(-1/5), reflected at both ends, so that a peak at exactly
    1 (nothing has changed) is found there. The robust width h is not the interquartile range, but
    the length of the shortest half of the data: equally long for a Gaussian, and that of one peak
    where there are two, as at a transition. It is evaluated on a grid of spacing 5e-4; the lower
    of equal maxima is taken.

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


def standard_error(values: NDArray[np.floating]) -> float:
    """Standard error of the mean, std / sqrt(N) with N - 1 in the variance's denominator.

    Args:
        values: One number per sample, shape (N,); one sample has the error 0.
    """
    n = len(values)
    return float(values.std(ddof=1, dtype=np.float64)) / n**0.5 if n > 1 else 0.0


def std_between(values: NDArray[np.floating], groups: NDArray[np.integer]) -> float:
    """Standard deviation of the groups' means, their number less one in the denominator.

    Args:
        values: One number per sample, shape (N,).
        groups: The group of each sample, shape (N,); one group has the deviation 0.
    """
    means = [values[groups == group].mean(dtype=np.float64) for group in np.unique(groups)]
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def summarize(values: NDArray[np.floating]) -> dict[str, float]:
    """Summarise one curve's samples at one time.

    Args:
        values: One number per sample, shape (N,), N at least 1.

    Returns:
        mode, mean, median, std (N - 1 in the denominator), sem and count.
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
