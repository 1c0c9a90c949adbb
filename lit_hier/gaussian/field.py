r"""A stationary Gaussian random field with a power-law spectrum, on a periodic grid.

Its Fourier modes are independent, :math:`E|\tilde x(k)|^2 = P(k) \propto |k|^{-a}`, so that each
diffuses on its own: modes of little power, which are the fine ones, are lost first, and at every
time the coarse ones are better kept.

Source: SI Appendix 5 of the later text compares with it.
"""

import math

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.gaussian.distribution import Distribution, PosteriorDraw
from lit_hier.gaussian.fourier import check_grid, wavenumber


class GaussianRandomField(Distribution):
    """Fields of variance 1 and mean 0.

    Args:
        size: Positions per side, at least 4.
        dimensions: 1 or 2.
        exponent: a of the power law; natural images have about 2 in two dimensions.

    Attributes:
        spectrum: P(k) of the modes of `torch.fft.rfftn` in its orthonormal form; 0 at k = 0.

    Raises:
        InputError: An argument is out of range.
    """

    num_classes = 1

    def __init__(self, size: int = 64, dimensions: int = 2, exponent: float = 2.0) -> None:
        check_grid(size, dimensions)
        self.shape = (1, *[size] * dimensions)
        self._axes = tuple(range(-dimensions, 0))
        k = wavenumber(size, dimensions)
        power = torch.where(k > 0, k.clamp(min=1) ** -exponent, 0.0)
        # Modes between the first and the last of the last axis stand for two.
        number = torch.full((k.shape[-1],), 2.0, dtype=torch.float64)
        number[0] = 1
        number[-1] = 2 if size % 2 else 1
        self.spectrum = power * size**dimensions / (power * number).sum()
        if not self.spectrum.isfinite().all():
            raise InputError(f"exponent is {exponent}; give a smaller one, the spectrum overflows")

    def sample(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Filter white noise."""
        x_0 = self._filter(self.white(draws), self.spectrum.sqrt())
        return x_0, torch.zeros(len(draws), dtype=torch.int64, device=draws.device)

    def posterior(self, x_t: Tensor, time: float, draws: Tensor) -> PosteriorDraw:
        """Draw each mode from its own posterior."""
        sqrt_alpha, noise = math.exp(-time), -math.expm1(-2 * time)
        signal = sqrt_alpha**2 * self.spectrum
        # Modes without power have none at any time; at t = 0 they would be 0/0.
        total = torch.where(self.spectrum > 0, signal + noise, 1.0)
        mean = self._filter(x_t, sqrt_alpha * self.spectrum / total)
        spread = (noise * self.spectrum / total).sqrt()
        x_0 = mean + self._filter(self.white(draws), spread)
        label = torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)
        return PosteriorDraw(x_0, label, torch.ones(len(x_t), 1).to(x_0))

    def similarity(self, time: float) -> Tensor:
        r"""Give each mode's correlation of x_0 with a posterior sample.

        .. math:: r = \frac{\alpha_t P(k)}{\alpha_t P(k) + 1 - \alpha_t}

        Returns:
            float64, shape of `spectrum`; 0 where there is no power.
        """
        signal = math.exp(-2 * time) * self.spectrum
        total = torch.where(signal > 0, signal - math.expm1(-2 * time), 1.0)
        ratio: Tensor = signal / total
        return ratio

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        modes = torch.fft.rfftn(x, dim=self._axes, norm="ortho") * gain.to(x.device)
        filtered: Tensor = torch.fft.irfftn(modes, s=self.shape[1:], dim=self._axes, norm="ortho")
        return filtered
