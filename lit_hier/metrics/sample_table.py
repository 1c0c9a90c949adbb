"""A table of per-sample numbers, filled by all processes together."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor
from torchmetrics import Metric

from lit_hier.errors import InputError


class SampleTable(Metric):
    """One number per sample and per entry of a fixed grid (for example time x layer).

    Every process fills the columns of its own samples and leaves zeros elsewhere, so that the sum
    over processes is exact even if they have different numbers of samples. The table is held in
    memory once; reducing it makes a few copies, however many processes there are.

    Args:
        *shape: Shape of the grid.
        num_samples: Number of samples of the whole run, N; sample indices are 0 to N - 1.
        **kwargs: See `torchmetrics.Metric`.
    """

    full_state_update = False
    values: Tensor
    num_updates: Tensor

    def __init__(self, *shape: int, num_samples: int, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _sum_in_place, "compute_with_cache": False, **kwargs})
        self.shape = (*shape, num_samples)
        # torchmetrics keeps a copy of each state's default: a scalar instead of a second table.
        self.add_state("values", torch.zeros(()), dist_reduce_fx="sum")
        num_updates = torch.zeros(num_samples, dtype=torch.int32)
        self.add_state("num_updates", num_updates, dist_reduce_fx="sum")
        self.values = torch.zeros(self.shape)

    def reset(self) -> None:
        """Empty the table."""
        super().reset()
        self.values = torch.zeros(self.shape, device=self.num_updates.device)

    def update(self, index: Int64[Tensor, " B"], values: Real[Tensor, "*grid B"]) -> None:
        """Enter samples.

        Args:
            index: Sample indices, int64, shape (B,).
            values: Shape (*shape, B).
        """
        self.values[..., index] = values.to(self.values)
        self.num_updates[index] += 1

    def compute(self) -> tuple[Int64[np.ndarray, " K"], Float[np.ndarray, "*grid K"]]:
        """Return the samples that were entered.

        Returns:
            Their indices in ascending order, int64, shape (K,), and values, float32, shape
            (*shape, K). Arrays, because torchmetrics copies tensors and squeezes those of one
            element. If all samples were entered, the values are the table itself, not a copy.

        Raises:
            InputError: A sample was entered more than once.
        """
        num_updates, values = self.num_updates.cpu().numpy(), self.values.cpu().numpy()
        if (num_updates > 1).any():
            repeated = int((num_updates > 1).argmax())
            raise InputError(
                f"sample {repeated} was measured more than once; give each sample one index, and"
                " plan batches with PlannedBatches (lit_hier.data.batches)"
            )
        index = np.flatnonzero(num_updates)
        return index, values if len(index) == len(num_updates) else values[..., index]


def _sum_in_place(state: Tensor, group: Any) -> list[Tensor]:
    """Add up the states of all processes in place; torchmetrics would gather all of them."""
    torch.distributed.all_reduce(state, group=group)
    return [state]
