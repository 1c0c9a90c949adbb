"""A table of per-sample numbers that many processes fill together."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_hier.errors import InputError


class SampleTable(Metric):
    """One number per sample and per entry of a fixed grid (time x layer, say).

    Every process fills the columns of its own samples and leaves zeros elsewhere, so that the sum
    over processes is exact, and uneven shares need no care.

    Args:
        *shape: Shape of the grid.
        num_samples: Samples in the whole run, N; sample indices are 0 to N - 1.
        **kwargs: See `torchmetrics.Metric`.
    """

    full_state_update = False
    values: Tensor
    times_seen: Tensor

    def __init__(self, *shape: int, num_samples: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("values", torch.zeros(*shape, num_samples), dist_reduce_fx="sum")
        seen = torch.zeros(num_samples, dtype=torch.int32)
        self.add_state("times_seen", seen, dist_reduce_fx="sum")

    def update(self, index: Tensor, values: Tensor) -> None:
        """Enter samples.

        Args:
            index: Sample indices, int64, shape (B,).
            values: Shape (*shape, B).
        """
        self.values[..., index] = values.to(self.values)
        self.times_seen[index] += 1

    def compute(self) -> tuple[Tensor, Tensor]:
        """Give the samples seen.

        Returns:
            Their indices in ascending order, int64, shape (K,), and values, shape (*shape, K).

        Raises:
            InputError: Two batches held the same sample.
        """
        if (self.times_seen > 1).any():
            twice = int((self.times_seen > 1).nonzero()[0])
            raise InputError(
                f"sample {twice} came more than once; let the data module share out its batches"
                " (trainer.use_distributed_sampler: false) and give each sample one index"
            )
        index = self.times_seen.nonzero().flatten()
        return index, self.values[..., index]
