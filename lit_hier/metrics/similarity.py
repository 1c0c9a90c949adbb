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
from torch.linalg import vecdot, vector_norm

from lit_hier.metrics.moments import Moments

Protocol = Literal["paper", "released"]

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
        cls, moments: Moments, protocol: Protocol = "paper", pooled: bool = False
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
        """Standardise and flatten activations (B, C, ...) to (B, D)."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        scale = self.inverse_std.view(shape)
        # One pass over x, which is most of what looking into a network costs.
        return torch.addcmul(-self.mean.view(shape) * scale, x.float(), scale).flatten(1)

    @property
    def num_constant(self) -> int:
        """Channels that never vary over the reference set."""
        return int((self.inverse_std == 0).sum())


class Directions(NamedTuple):
    """Vectors that others are compared with, time after time.

    Attributes:
        units: Each of length 1, or 0 where there was no direction; float32, shape (B, D).
    """

    units: Tensor

    @classmethod
    def of(cls, z: Tensor) -> "Directions":
        """Take the directions of vectors, shape (B, D)."""
        return cls(z / vector_norm(z, dim=1, keepdim=True).clamp_min(_SHORTEST))

    def cosine(self, z: Tensor) -> Tensor:
        """Compare each vector with its own: shape (B, D) to (B,); 0 without a direction."""
        lengths: Tensor = vector_norm(z, dim=1).clamp_min(_SHORTEST)
        return vecdot(self.units, z).div(lengths)  # type: ignore[no-any-return]
