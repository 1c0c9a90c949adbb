r"""The base class of distributions with a closed-form posterior under Gaussian diffusion.

Diffusion is :math:`x_t = \sqrt{\alpha_t} x_0 + \sqrt{1 - \alpha_t} \eta` with
:math:`\alpha_t = e^{-2t}` (Eq. 9). If :math:`x_0` is Gaussian with mean :math:`\mu` and variance
:math:`\sigma^2`, its distribution given :math:`x_t` is Gaussian with

.. math::
   E[x_0 \mid x_t] = \mu + \frac{\sqrt{\alpha_t} \sigma^2}{\alpha_t \sigma^2 + 1 - \alpha_t}
   (x_t - \sqrt{\alpha_t} \mu), \qquad
   \mathrm{Var}[x_0 \mid x_t] = \frac{(1 - \alpha_t) \sigma^2}{\alpha_t \sigma^2 + 1 - \alpha_t}
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from lit_hier.processes import normal_quantile


class PosteriorDraw(NamedTuple):
    """A sample of p(x_0 | x_t).

    Attributes:
        x_0: Data, float64, shape (B, 1, *spatial).
        label: Classes of the data, int64, shape (B,).
        probabilities: p(class | x_t), float64, shape (B, classes).
    """

    x_0: Tensor
    label: Tensor
    probabilities: Tensor


class Distribution(ABC):
    """A distribution with a closed-form posterior under Gaussian diffusion.

    Attributes:
        shape: Shape of a datum, (1, *spatial).
        num_classes: Number of classes; 1 if data have no class.
    """

    shape: tuple[int, ...]
    num_classes: int

    @property
    def num_draws(self) -> int:
        """Number of uniform draws for a datum or for a sample of its posterior."""
        return 1 + math.prod(self.shape)

    @abstractmethod
    def sample(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Draw data.

        Args:
            draws: Uniform numbers in [0, 1), float64, shape (B, `num_draws`).

        Returns:
            Data, float64, shape (B, 1, *spatial), and their classes, int64, shape (B,).
        """

    @abstractmethod
    def posterior(self, x_t: Tensor, time: float, draws: Tensor) -> PosteriorDraw:
        """Draw from p(x_0 | x_t).

        Args:
            x_t: Diffused data, float64, shape (B, 1, *spatial).
            time: Diffusion time t.
            draws: As in `sample`.
        """

    def white_noise(self, draws: Tensor) -> Tensor:
        """Return white noise, shape (B, 1, *spatial), from all draws but the first."""
        noise: Tensor = normal_quantile(draws[:, 1:]).unflatten(1, self.shape)
        return noise

    def class_theory(self, time: float) -> float:
        """Return the expected posterior probability of the true class; NaN if unknown."""
        return 1.0 if self.num_classes == 1 else math.nan

    def speciation_time(self) -> float:
        """Return the diffusion time at which classes split; NaN if there are none."""
        return math.nan
