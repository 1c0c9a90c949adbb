"""Histograms of probabilities, streamed over batches and processes."""

from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torchmetrics import Metric

from lit_hier.metrics.functional.histogram import histogram_means, histogram_update


class Histogram(Metric):
    """Counts of probabilities in equal bins, and their means, for a fixed set of kinds.

    All states are integers, which add up to the same bits in any order.

    Args:
        *shape: Shape of the set of kinds.
        num_bins: Bins of [0, 1].
        **kwargs: See `torchmetrics.Metric`.
    """

    full_state_update = False
    counts: Tensor
    sums: Tensor

    def __init__(self, *shape: int, num_bins: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_bins = num_bins
        counts = torch.zeros(*shape, num_bins, dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, kind: tuple[int, ...], values: Float[Tensor, "*shape"]) -> None:
        """Count probabilities of one kind, any shape."""
        counts, total = histogram_update(values, self.num_bins)
        self.counts[kind] += counts
        self.sums[kind] += total

    def compute(self) -> tuple[Int64[Tensor, "*kinds bins"], Float64[Tensor, "*kinds"]]:
        """Compute counts and means.

        Returns:
            Counts, int64, shape (*kinds, bins), and means, float64, shape (*kinds); NaN where
            nothing was counted.
        """
        return self.counts, histogram_means(self.counts, self.sums)
