r"""Standardized activations, whose cosine is the paper's similarity (Section 2.3, Fig. 2).

.. math:: z = \frac{a - \mu}{\sigma}, \qquad
   \cos(z, z') = \frac{z \cdot z'}{\lVert z \rVert \, \lVert z' \rVert}

with the mean and standard deviation of each channel over the samples and positions of a reference
set, or of each unit (a channel at a position) over its samples, and the product over all channels
and positions. There are three kinds:

- `paper`: :math:`\sigma` is the standard deviation, as the paper says for Figs. 2 and 16.
- `released`: :math:`\sigma^2 = E[a^2] + 10^{-8}`, not centered, and, per channel, one pair of
  numbers for all logits together, as in the published code.
- `none`: :math:`\mu = 0, \sigma = 1`. After a ReLU no activation is negative, so that even
  unrelated samples have a positive cosine.
"""

from typing import Final, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.linalg import vector_norm

from lit_hier.errors import InputError
from lit_hier.metrics.functional.moments import Moments

StandardizationKind = Literal["paper", "released", "none"]
Per = Literal["channel", "unit"]
"""What has a mean and a standard deviation of its own."""

_RELEASED_FLOOR: Final = 1e-8
MIN_LENGTH: Final = 1e-8
"""Of a vector that has a direction."""


def check_standardization(kind: str, per: str) -> None:
    """Reject unknown kinds, and statistics that are not used.

    Raises:
        InputError: There is no such kind, or `none` is to have statistics per unit.
    """
    for name, value, choices in (
        ("standardization", kind, get_args(StandardizationKind)),
        ("per", per, get_args(Per)),
    ):
        if value not in choices:
            *others, last = choices
            raise InputError(f"{name} is {value!r}; give {', '.join(others)} or {last}")
    if (kind, per) == ("none", "unit"):
        raise InputError(
            "per is unit, but standardization is none, which has no statistics; omit `per` or give"
            " standardization: paper"
        )


class Standardization(NamedTuple):
    """The centering and scaling of a layer's activations.

    Attributes:
        mean: Per channel, float32, shape (C,); per unit, positions of the first channel first,
            shape (C P,) for P positions; or one for all, shape (1,).
        inverse_std: One over the standard deviation; 0 for a channel or unit that is constant,
            which then does not contribute to the cosine. float32, same shape.
    """

    mean: Float32[Tensor, " statistics"]
    inverse_std: Float32[Tensor, " statistics"]

    @classmethod
    def of(
        cls, moments: Moments, kind: StandardizationKind = "paper", pooled: bool = False
    ) -> "Standardization":
        """Compute the standardization from the moments of a reference set.

        Args:
            moments: Of the layer, per channel or per unit.
            kind: `paper`, `released` or `none`, see the module.
            pooled: Whether the layer is the logits, which `released` centers and scales by one
                pair of numbers; `paper` has a pair per unit.
        """
        variance, mean = moments.squares / moments.size, moments.mean
        if kind == "none":
            return cls(mean.new_zeros(1).float(), mean.new_ones(1).float())
        if kind == "released":
            second = variance + mean.square()
            if pooled:
                mean, second = mean.mean()[None], second.mean()[None]
            return cls(mean.float(), (second + _RELEASED_FLOOR).rsqrt().float())
        std = variance.sqrt()
        inverse = torch.where(std > 0, 1 / std, torch.zeros_like(std))
        return cls(mean.float(), inverse.float())

    def __call__(self, x: Float[Tensor, "B C *positions"]) -> Float32[Tensor, "B C *positions"]:
        """Standardize activations: see `standardize`."""
        return standardize(x, self)

    @property
    def num_constant(self) -> int:
        """The number of channels, or units, that are constant over the reference set."""
        return int((self.inverse_std == 0).sum())


def standardize(
    x: Float[Tensor, "B C *positions"], standardization: Standardization
) -> Float32[Tensor, "B C *positions"]:
    """Center and scale activations.

    Args:
        x: Activations, shape (B, C, *positions).
        standardization: Of the layer.

    Returns:
        float32, the shape of `x`.
    """
    units = x.shape[1:]
    per_unit = len(standardization.mean) == units.numel()
    shape = units if per_unit else (-1,) + (1,) * (len(units) - 1)
    scale = standardization.inverse_std.view(shape)
    return torch.addcmul(-standardization.mean.view(shape) * scale, x.float(), scale)


def length(z: Float32[Tensor, "B features"]) -> Float32[Tensor, " B"]:
    """Compute the Euclidean norm of each row, at least 1e-8."""
    norm: Tensor = vector_norm(z, dim=1).clamp_min(MIN_LENGTH)
    return norm


def standardized_cosine(
    a: Float[Tensor, "B C *positions"],
    b: Float[Tensor, "B C *positions"],
    standardization: Standardization,
) -> Float32[Tensor, " B"]:
    """Compute the cosine between two sets of standardized activations, sample by sample.

    Args:
        a: Activations, shape (B, C, *positions).
        b: Activations, same shape.
        standardization: Of the layer.

    Returns:
        Cosines, float32, shape (B,); 0 where an activation is too short to have a direction.
    """
    rows = [standardize(x, standardization).flatten(1) for x in (a, b)]
    cosine: Tensor = (rows[0] * rows[1]).sum(1) / (length(rows[0]) * length(rows[1]))
    return cosine
