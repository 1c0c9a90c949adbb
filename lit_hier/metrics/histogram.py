"""Histograms of probabilities, streamed over batches and processes."""

from typing import Any, Final

import torch
from torch import Tensor
from torchmetrics import Metric

_UNIT: Final = 2**30  # sums of probabilities are kept in its parts, as integers


class Histogram(Metric):
    """Counts of probabilities in equal bins, and their means, for a fixed set of kinds.

    All states are integers, so that they add up to the same bits in any order.

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

    def update(self, kind: tuple[int, ...], values: Tensor) -> None:
        """Count values in [0, 1] of one kind, any shape."""
        flat = values.flatten()
        bins = (flat * self.num_bins).long().clamp(max=self.num_bins - 1)
        self.counts[kind] += torch.bincount(bins, minlength=self.num_bins)
        self.sums[kind] += (flat.double() * _UNIT).round().long().sum()

    def compute(self) -> tuple[Tensor, Tensor]:
        """Give counts, int64, (*shape, bins), and means, float64, shape: NaN where all is 0."""
        return self.counts, self.sums.double() / _UNIT / self.counts.sum(-1)
