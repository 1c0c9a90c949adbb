r"""What the models have in common.

All diffuse as :math:`x_t = \sqrt{\alpha_t} x_0 + \sqrt{1 - \alpha_t} \eta` with
:math:`\alpha_t = e^{-2t}` (Eq. 9). A Gaussian :math:`x_0` of mean :math:`\mu` and variance
:math:`\sigma^2`, given :math:`x_t`, is again Gaussian:

.. math::
   E[x_0 \mid x_t] = \mu + \frac{\sqrt{\alpha_t} \sigma^2}{\alpha_t \sigma^2 + 1 - \alpha_t}
   (x_t - \sqrt{\alpha_t} \mu), \qquad
   \mathrm{Var}[x_0 \mid x_t] = \frac{(1 - \alpha_t) \sigma^2}{\alpha_t \sigma^2 + 1 - \alpha_t}
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from lit_hier.processes import normal


class PosteriorDraw(NamedTuple):
    """A draw of x_0 given x_t.

    Attributes:
        x_0: float64, shape (B, 1, *spatial).
        label: Its class, int64, shape (B,).
        probabilities: Of the classes given x_t, float64, shape (B, classes).
    """

    x_0: Tensor
    label: Tensor
    probabilities: Tensor


class Distribution(ABC):
    """A distribution with a closed-form posterior under Gaussian diffusion.

    Attributes:
        shape: Of a datum: one channel, then positions.
        num_classes: Classes; 1 where there are none.
    """

    shape: tuple[int, ...]
    num_classes: int

    @property
    def num_draws(self) -> int:
        """Uniform numbers that a datum, or a draw from a posterior, takes."""
        return 1 + math.prod(self.shape)

    @abstractmethod
    def sample(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Draw data.

        Args:
            draws: Uniform numbers in [0, 1), float64, shape (B, `num_draws`).

        Returns:
            x_0, float64, shape (B, 1, *spatial), and classes, int64, shape (B,).
        """

    @abstractmethod
    def posterior(self, x_t: Tensor, time: float, draws: Tensor) -> PosteriorDraw:
        """Draw x_0 given x_t.

        Args:
            x_t: float64, shape (B, 1, *spatial).
            time: Diffusion time t.
            draws: As in `sample`.
        """

    def white(self, draws: Tensor) -> Tensor:
        """Make white noise, shape (B, 1, *spatial), of all draws but the first."""
        noise: Tensor = normal(draws[:, 1:]).unflatten(1, self.shape)
        return noise

    def class_theory(self, time: float) -> float:
        """Expect the posterior probability of the true class; NaN where nothing is known."""
        return 1.0 if self.num_classes == 1 else math.nan
