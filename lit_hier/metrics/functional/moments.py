r"""Mean and variance of activations, merged without loss of precision.

Two sets of :math:`n_a` and :math:`n_b` values, with means :math:`\mu` and summed squared
deviations :math:`M`, merge into

.. math:: \mu = \mu_a + (\mu_b - \mu_a) \frac{n_b}{n}, \qquad
   M = M_a + M_b + (\mu_b - \mu_a)^2 \frac{n_a n_b}{n}

Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979).
"""

from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lit_hier.kernels.compiled import CompiledKernels

_KERNELS: Final = CompiledKernels("statistics of activations")


class Moments(NamedTuple):
    """Moments of a set of values per channel or per unit, C of them.

    Attributes:
        size: Size of the set, float64, shape ().
        mean: float64, shape (C,).
        squares: Sum of squared deviations from the mean, float64, shape (C,).
    """

    size: Float64[Tensor, ""]
    mean: Float64[Tensor, " C"]
    squares: Float64[Tensor, " C"]

    def merge(self, other: "Moments") -> "Moments":
        """Compute the moments of both sets together: see `merge_moments`."""
        return merge_moments(self, other)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Compute the moments of the union of two disjoint sets."""
    size = a.size + b.size
    shift = b.mean - a.mean
    weight = b.size / size
    return Moments(
        size,
        a.mean + shift * weight,
        a.squares + b.squares + shift.square() * (a.size * weight),
    )


def channel_moments(x: Float[Tensor, "B C *positions"]) -> Moments:
    """Compute the moments of each channel over samples and positions.

    Args:
        x: Activations, shape (B, C, *positions); the units of a linear layer are channels without
            positions.

    Returns:
        Moments per channel, float64; those of a GPU differ from a CPU's by rounding.
    """
    size = x.new_full((), x.numel() / x.shape[1], dtype=torch.float64)
    if x.dtype != torch.float64 and _KERNELS.can_run_on(x.device):
        from lit_hier.kernels import activations

        found: Tensor | None = _KERNELS.run(x, lambda: activations.moments(x))
        if found is not None:
            return Moments(size, *found)
    values = x.to(torch.float64, copy=True)
    others = [axis for axis in range(x.ndim) if axis != 1]
    if values.device.type != "cpu":  # one pass over memory, which is what takes time there
        variance, mean = torch.var_mean(values, others, correction=0)
        return Moments(size, mean, variance * size)
    mean = values.sum(others, keepdim=True).div_(size)
    squares = values.sub_(mean).square_().sum(others)
    return Moments(size, mean.flatten(), squares)
