r"""A mixture of Gaussians: data with classes but without a hierarchy.

.. math:: x_0 = a \, \mu_c + \eta, \qquad
   p(c \mid x_t) \propto \exp\Big( -\frac{\lVert x_t - \sqrt{\alpha_t} a \mu_c \rVert^2}{2} \Big)

because the variance of x_t within a class is :math:`\alpha_t + 1 - \alpha_t = 1`. The means and
the noise have the same power in all Fourier modes, so no scale is special. The class is lost in a
crossover around :math:`t = \frac12 \ln(a^2 d)`.

Source: compared with the RHM in SI Appendix 5 of the later text; for the crossover, Biroli and
Mezard, "Generative diffusion in very large dimensions" (2023).
"""

import math

import numpy as np
import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.gaussian.distribution import Distribution, PosteriorDraw
from lit_hier.gaussian.fourier import check_grid
from lit_hier.io.devices import constant
from lit_hier.processes import normal_quadrature


class GaussianMixture(Distribution):
    """Equally likely classes, each a Gaussian of variance 1 around a mean with a white spectrum.

    The Fourier modes of the means have random phases. If there are two classes, their means are
    opposite.

    Args:
        size: Positions per side, at least 4.
        dimensions: 1 or 2.
        num_classes: At least 2.
        separation: a, the root mean square of the entries of a mean.
        seed: Seed of the means.

    Attributes:
        means: Mean of each class, float64, shape (classes, 1, *spatial).

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        size: int = 32,
        dimensions: int = 2,
        num_classes: int = 2,
        separation: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_grid(size, dimensions)
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}; give at least 2")
        if not (separation > 0 and math.isfinite(separation)):
            raise InputError(f"separation is {separation}; give a positive number")
        if seed < 0:
            raise InputError(f"seed is {seed}; give at least 0")
        self.shape = (1, *[size] * dimensions)
        self.num_classes = num_classes
        white = np.random.default_rng(seed).standard_normal((num_classes, *self.shape))
        axes = tuple(range(-dimensions, 0))
        modes = torch.fft.rfftn(torch.from_numpy(white), dim=axes, norm="ortho")
        flat = torch.fft.irfftn(modes / modes.abs(), s=self.shape[1:], dim=axes, norm="ortho")
        if num_classes == 2:
            flat[1] = -flat[0]
        self.means = separation * flat

    def sample(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a class, then a datum around its mean."""
        label = (draws[:, 0] * self.num_classes).long()
        x_0: Tensor = constant(self.means, draws.device)[label] + self.white_noise(draws)
        return x_0, label

    def posterior(self, x_t: Tensor, time: float, draws: Tensor) -> PosteriorDraw:
        """Draw a class from its posterior, then a datum from the posterior given the class."""
        means = constant(self.means, x_t.device)
        distance = (x_t[:, None] - math.exp(-time) * means).flatten(2).square().sum(-1)
        probabilities = torch.softmax(-distance / 2, dim=1)
        cumulative = probabilities.cumsum(1)
        threshold = draws[:, :1] * cumulative[:, -1:]
        label = (cumulative <= threshold).sum(1).clamp(max=self.num_classes - 1)
        mean, sqrt_alpha = means[label], math.exp(-time)
        center = mean + sqrt_alpha * (x_t - sqrt_alpha * mean)
        spread = math.sqrt(-math.expm1(-2 * time))
        return PosteriorDraw(center + spread * self.white_noise(draws), label, probabilities)

    def class_theory(self, time: float) -> float:
        r"""Return the expected posterior probability of the true class for two classes.

        The log odds of the true class are normal with mean :math:`\delta^2 / 2` and variance
        :math:`\delta^2 = \alpha_t \lVert a \mu_1 - a \mu_2 \rVert^2`. NaN for more than two
        classes.
        """
        if self.num_classes > 2:
            return math.nan
        delta = math.exp(-time) * float((self.means[0] - self.means[1]).norm())
        nodes, weights = normal_quadrature(2001)
        odds = np.clip(delta**2 / 2 + delta * nodes, -700, 700)
        return float(weights @ (1 / (1 + np.exp(-odds))))

    def speciation_time(self) -> float:
        r"""Return :math:`\frac{1}{2} \ln \Lambda`, the diffusion time at which classes split.

        :math:`\Lambda` is the variance within a class, 1, plus the largest eigenvalue of the
        covariance of the means.
        """
        centered = (self.means - self.means.mean(0)).flatten(1)
        largest = torch.linalg.matrix_norm(centered, ord=2).item() ** 2 / self.num_classes
        return 0.5 * math.log(1 + largest)
