r"""Standardised activations, whose cosine is the paper's similarity (Section 2.3, Fig. 2).

.. math:: z = \frac{a - \mu}{\sigma}, \qquad
   \cos(z, z') = \frac{z \cdot z'}{\lVert z \rVert \, \lVert z' \rVert}

with the mean and standard deviation of each channel over a reference set, and the product over
all channels and positions. By name:

- `paper`: :math:`\sigma` is the standard deviation, as the paper says.
- `released`: :math:`\sigma^2 = E[a^2] + 10^{-8}`, not centred, and one pair of numbers for all
  logits together, as in the published code.
"""

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lit_hier.metrics.moments import Moments

StandardizationKind = Literal["paper", "released"]

_RELEASED_FLOOR: Final = 1e-8
_SHORTEST: Final = 1e-8  # a vector with a direction


class Standardization(NamedTuple):
    """How a layer's activations are centred and scaled.

    Attributes:
        mean: Per channel, float32, shape (C,) or, pooled, (1,).
        inverse_std: One over the standard deviation; 0 for a channel that never varies, which
            then counts for nothing. float32, same shape.
    """

    mean: Tensor
    inverse_std: Tensor

    @classmethod
    def of(
        cls, moments: Moments, protocol: StandardizationKind = "paper", pooled: bool = False
    ) -> "Standardization":
        """Take what standardises from the moments of a reference set.

        Args:
            moments: Of a layer.
            protocol: See the module's description.
            pooled: Whether the layer is the logits, which the `released` code centres and scales
                by one pair of numbers; `paper` has a pair per unit.
        """
        variance, mean = moments.squares / moments.number, moments.mean
        if protocol == "released":
            second = variance + mean.square()
            if pooled:
                mean, second = mean.mean()[None], second.mean()[None]
            return cls(mean.float(), (second + _RELEASED_FLOOR).rsqrt().float())
        std = variance.sqrt()
        inverse = torch.where(std > 0, 1 / std, torch.zeros_like(std))
        return cls(mean.float(), inverse.float())

    def __call__(self, x: Tensor) -> Tensor:
        """Standardise activations, shape (B, C, ...)."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        scale = self.inverse_std.view(shape)
        return torch.addcmul(-self.mean.view(shape) * scale, x.float(), scale)

    @property
    def num_constant(self) -> int:
        """Channels that never vary over the reference set."""
        return int((self.inverse_std == 0).sum())


class SimilarityTo:
    """The similarity of a layer's activations to those that it had at the start.

    Args:
        start: Activations, shape (B, C, ...).
        standardization: Of the layer.
    """

    def __init__(self, start: Tensor, standardization: Standardization) -> None:
        self._standardize = standardization
        # Numbers are taken as they lie in memory, whichever axis of them is the channels'.
        strides = start.stride()
        self._axes = [0, *sorted(range(1, start.ndim), key=lambda axis: -strides[axis])]
        self._start = self._rows(start)
        self._length = vector_norm(self._start, dim=1).clamp_min(_SHORTEST)

    def _rows(self, x: Tensor) -> Tensor:
        return self._standardize(x).permute(self._axes).flatten(1)

    def __call__(self, x: Tensor) -> Tensor:
        """Compare each sample's activations, shape (B, C, ...), with its own at the start.

        Returns:
            Cosines, shape (B,); 0 where one of both is too short to have a direction.
        """
        z = self._rows(x)
        length = vector_norm(z, dim=1).clamp_min(_SHORTEST)
        cosine: Tensor = z.mul_(self._start).sum(1) / (length * self._length)
        return cosine
