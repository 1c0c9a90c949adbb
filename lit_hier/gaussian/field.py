r"""A stationary Gaussian random field with a power-law spectrum, on a periodic grid.

Its Fourier modes are independent, :math:`E|\tilde x(k)|^2 = P(k) \propto |k|^{-a}`, and so are
their posteriors. Fine modes have the least power and are lost first; at every time, coarse modes
are reconstructed better than fine ones.

Source: compared with the RHM in SI Appendix 5 of the later text.
"""

import math

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.gaussian.distribution import Distribution, PosteriorDraw
from lit_hier.gaussian.fourier import check_grid, wavenumber
from lit_hier.io.devices import upload


class GaussianRandomField(Distribution):
    """Gaussian random fields with mean 0, variance 1 and a power-law spectrum.

    Args:
        size: Positions per side, at least 4.
        dimensions: 1 or 2.
        exponent: a of the power law; about 2 for natural images in two dimensions.

    Attributes:
        spectrum: P(k) of the modes of the orthonormal `torch.fft.rfftn`; 0 at k = 0.

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
        # Along the last axis, every mode but the first and the Nyquist mode stands for two.
        multiplicity = torch.full((k.shape[-1],), 2.0, dtype=torch.float64)
        multiplicity[0] = 1
        multiplicity[-1] = 2 if size % 2 else 1
        self.spectrum = power * size**dimensions / (power * multiplicity).sum()
        if not self.spectrum.isfinite().all():
            raise InputError(f"exponent is {exponent}; give a smaller one, the spectrum overflows")

    def sample(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Draw fields by filtering white noise; their class is 0."""
        x_0 = self._filter(self.white_noise(draws), self.spectrum.sqrt())
        return x_0, torch.zeros(len(draws), dtype=torch.int64, device=draws.device)

    def posterior(self, x_t: Tensor, time: float, draws: Tensor) -> PosteriorDraw:
        """Draw each mode from its posterior."""
        sqrt_alpha, noise = math.exp(-time), -math.expm1(-2 * time)
        signal = sqrt_alpha**2 * self.spectrum
        # A mode without power would be 0/0 at t = 0; it is 0 at all times.
        total = torch.where(self.spectrum > 0, signal + noise, 1.0)
        mean = self._filter(x_t, sqrt_alpha * self.spectrum / total)
        spread = (noise * self.spectrum / total).sqrt()
        x_0 = mean + self._filter(self.white_noise(draws), spread)
        label = torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)
        return PosteriorDraw(x_0, label, x_0.new_ones(len(x_t), 1))

    def similarity(self, time: float) -> Tensor:
        r"""Return the correlation of each mode of x_0 with that of a posterior sample.

        .. math:: r = \frac{\alpha_t P(k)}{\alpha_t P(k) + 1 - \alpha_t}

        Returns:
            float64, with the shape of `spectrum`; 0 for modes without power.
        """
        signal = math.exp(-2 * time) * self.spectrum
        total = torch.where(signal > 0, signal - math.expm1(-2 * time), 1.0)
        ratio: Tensor = signal / total
        return ratio

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        modes = torch.fft.rfftn(x, dim=self._axes, norm="ortho") * upload(gain, x.device)
        filtered: Tensor = torch.fft.irfftn(modes, s=self.shape[1:], dim=self._axes, norm="ortho")
        return filtered
