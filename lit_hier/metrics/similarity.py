r"""Standardised activations, whose cosine is the paper's similarity (Section 2.3, Fig. 2).

.. math:: z = \frac{a - \mu}{\sigma}, \qquad
   \cos(z, z') = \frac{z \cdot z'}{\lVert z \rVert \, \lVert z' \rVert}

with the mean and standard deviation of each channel over a reference set, and the product over
all channels and positions. The cosine itself is `torch.nn.functional.cosine_similarity`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lit_hier.metrics.moments import Moments


class Standardization(NamedTuple):
    """How a layer's activations are centred and scaled.

    Attributes:
        mean: Per channel, float32, shape (C,).
        inverse_std: One over the standard deviation; 0 for a channel that never varies, which
            then counts for nothing. float32, shape (C,).
    """

    mean: Tensor
    inverse_std: Tensor

    @classmethod
    def of(cls, moments: Moments) -> "Standardization":
        """Take the mean and standard deviation of a reference set."""
        std = (moments.squares / moments.number).sqrt()
        inverse = torch.where(std > 0, 1 / std, torch.zeros_like(std))
        return cls(moments.mean.float(), inverse.float())

    def __call__(self, x: Tensor) -> Tensor:
        """Standardise and flatten activations (B, C, ...) to (B, D)."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        centred = x.float() - self.mean.view(shape)
        return (centred * self.inverse_std.view(shape)).flatten(1)

    @property
    def num_constant(self) -> int:
        """Channels that never vary over the reference set."""
        return int((self.inverse_std == 0).sum())
