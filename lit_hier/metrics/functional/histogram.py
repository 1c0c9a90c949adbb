"""Histograms and means of probabilities as integers, which are exact in any order."""

from typing import Final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_UNIT: Final = 2**30  # sums of probabilities are counted in multiples of 1 / _UNIT


def histogram_update(
    values: Float[Tensor, "*shape"], num_bins: int
) -> tuple[Int64[Tensor, " bins"], Int64[Tensor, ""]]:
    """Count probabilities in equal bins of [0, 1], and sum them.

    Args:
        values: Probabilities, any shape.
        num_bins: The number of bins.

    Returns:
        Counts, int64, shape (bins,), and the fixed-point sum, int64, shape (): both add up.
    """
    flat = values.flatten()
    bins = (flat * num_bins).long().clamp(max=num_bins - 1)
    counts = torch.bincount(bins, minlength=num_bins)
    return counts, (flat.double() * _UNIT).round().long().sum()


def histogram_means(
    counts: Int64[Tensor, "*kinds bins"], sums: Int64[Tensor, "*kinds"]
) -> Float64[Tensor, "*kinds"]:
    """Compute the means of the probabilities that `histogram_update` counted.

    Args:
        counts: int64, shape (*kinds, bins).
        sums: Fixed-point sums, int64, shape (*kinds).

    Returns:
        float64, shape (*kinds); NaN where nothing was counted.
    """
    means: Tensor = sums.double() / _UNIT / counts.sum(-1)
    return means
