"""Sums over samples that add up to the same bits in any order."""

from typing import Any, Final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torchmetrics import Metric

from lit_hier.errors import InputError

_STEPS: Final = 2.0**40  # of a unit: small enough for products of spins, and for 2^22 samples


class FixedPointSum(Metric):
    """Sums of numbers in blocks of samples, in fixed point with a resolution of 2^-40.

    Whole and fractional parts are summed as integers, so that the sums depend neither on the order
    of the batches nor on their distribution over processes. Memory does not depend on the number
    of samples.

    Args:
        num_blocks: Blocks of samples.
        *shape: Shape of the numbers of one sample.
        **kwargs: See `torchmetrics.Metric`.
    """

    full_state_update = False
    parts: Tensor

    def __init__(self, num_blocks: int, *shape: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        parts = torch.zeros(2, num_blocks, *shape, dtype=torch.int64)
        self.add_state("parts", parts, dist_reduce_fx="sum")

    def update(self, block: Int64[Tensor, " B"], values: Float[Tensor, " B *shape"]) -> None:
        """Add samples to their blocks.

        Raises:
            InputError: A value is NaN or infinite, or not between -2^40 and 2^40.
        """
        x = values.double()
        if not (x.abs() < _STEPS).all():
            raise InputError(
                f"values: the largest is {float(x.abs().max()):g}; sums in fixed point take"
                " numbers below 2^40 = 1.1e12; divide them by their unit"
            )
        whole = x.floor()
        self.parts[0].index_add_(0, block, whole.long())
        self.parts[1].index_add_(0, block, ((x - whole) * _STEPS).round().long())

    def compute(self) -> Float64[Tensor, " blocks *shape"]:
        """Return the sums, float64, shape (blocks, *shape)."""
        return self.parts[0].double() + self.parts[1].double() / _STEPS
