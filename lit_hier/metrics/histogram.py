"""Histograms of probabilities, streamed over batches and processes."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from lit_hier.metrics.functional.histogram import histogram_update


class Histogram(Metric):
    """Counts of probabilities in equal bins, for a fixed set of kinds.

    Counts are integers, which add up to the same bits in any order.

    Args:
        *shape: Shape of the set of kinds.
        num_bins: Bins of [0, 1].
        **kwargs: See `torchmetrics.Metric`.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, *shape: int, num_bins: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_bins = num_bins
        counts = torch.zeros(*shape, num_bins, dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, kind: tuple[int, ...], values: Float[Tensor, "*shape"]) -> None:
        """Count probabilities of one kind, any shape."""
        self.counts[kind] += histogram_update(values, self.num_bins)

    def compute(self) -> Int64[Tensor, "*kinds bins"]:
        """Return the counts, int64, shape (*kinds, bins)."""
        return self.counts
