"""Histograms of probabilities, which add up to the same integers in any order."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def histogram_update(values: Float[Tensor, "*shape"], num_bins: int) -> Int64[Tensor, " bins"]:
    """Count probabilities in equal bins of [0, 1].

    Args:
        values: Probabilities, any shape.
        num_bins: The number of bins.

    Returns:
        Counts, int64, shape (bins,).
    """
    bins = (values.flatten() * num_bins).long().clamp(max=num_bins - 1)
    return torch.bincount(bins, minlength=num_bins)
