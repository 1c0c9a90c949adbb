"""A table of per-sample numbers that many processes fill together."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from lit_hier.errors import InputError


class SampleTable(Metric):
    """One number per sample and per entry of a fixed grid (time x layer, say).

    Every process fills the columns of its own samples and leaves zeros elsewhere, so that the sum
    over processes is exact, and uneven shares need no care. In memory the table stands once;
    while processes unite theirs a few copies are made, however many processes there are.

    Args:
        *shape: Shape of the grid.
        num_samples: Samples in the whole run, N; sample indices are 0 to N - 1.
        **kwargs: See `torchmetrics.Metric`.
    """

    full_state_update = False
    values: Tensor
    times_seen: Tensor

    def __init__(self, *shape: int, num_samples: int, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _summed, "compute_with_cache": False, **kwargs})
        self.shape = (*shape, num_samples)
        # torchmetrics keeps a copy of what a state begins with: a number, in place of a table.
        self.add_state("values", torch.zeros(()), dist_reduce_fx="sum")
        seen = torch.zeros(num_samples, dtype=torch.int32)
        self.add_state("times_seen", seen, dist_reduce_fx="sum")
        self.values = torch.zeros(self.shape)

    def reset(self) -> None:
        """Empty the table."""
        super().reset()
        self.values = torch.zeros(self.shape, device=self.times_seen.device)

    def update(self, index: Tensor, values: Tensor) -> None:
        """Enter samples.

        Args:
            index: Sample indices, int64, shape (B,).
            values: Shape (*shape, B).
        """
        self.values[..., index] = values.to(self.values)
        self.times_seen[index] += 1

    def compute(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Give the samples seen.

        Returns:
            Their indices in ascending order, int64, shape (K,), and values, float32, shape
            (*shape, K); arrays, as of tensors torchmetrics would make copies, and numbers without
            a shape where there is but one. Where all samples were seen, the values are the
            table's own.

        Raises:
            InputError: Two batches held the same sample.
        """
        times_seen, values = self.times_seen.cpu().numpy(), self.values.cpu().numpy()
        if (times_seen > 1).any():
            twice = int((times_seen > 1).argmax())
            raise InputError(
                f"sample {twice} came more than once; let the data module share out its batches"
                " (trainer.use_distributed_sampler: false) and give each sample one index"
            )
        index = np.flatnonzero(times_seen)
        return index, values if len(index) == len(times_seen) else values[..., index]


def _summed(state: Tensor, group: Any) -> list[Tensor]:
    """Add up the processes' states in place, where torchmetrics would gather all of them."""
    torch.distributed.all_reduce(state, group=group)
    return [state]
