r"""How leaves are corrupted, and what an observer then believes of them.

Each process has a time axis of its own; the time 0 leaves a datum as it is.

=========== ============================== =====================================================
process     time                           observation of a leaf with symbol x
=========== ============================== =====================================================
`epsilon`   epsilon in [0, 1]              belief 1 - epsilon + epsilon/v in x itself (Eq. 6-7);
                                           or, as a real string, x kept with probability
                                           1 - epsilon, else replaced by a uniform symbol
`gaussian`  t in [0, inf), diffusion time  :math:`x_t = \sqrt{\alpha_t} e_x +
                                           \sqrt{1 - \alpha_t} \eta`,
                                           :math:`\alpha_t = e^{-2t}` (Eq. 9)
`masking`   masked fraction in [0, 1]      x kept, or erased with that probability
=========== ============================== =====================================================

The observer's belief is the message with which belief propagation starts at a leaf: proportional
to the likelihood of the observation for each symbol.

Source: Sections 4 and 5 and Appendices A and B.1 of the paper.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.errors import InputError

_CERTAIN: Final = 144.0  # signal-to-noise ratio above which effective noise is below 1e-12
_NODES: Final = 601  # of the grids on which effective noise is integrated


@dataclass(frozen=True)
class TimeAxis:
    """What an inversion time means.

    Attributes:
        process: The process's name, as tables give it.
        label: What the time is, for the axis of a figure.
        symbol: The time's letter, for progress bars and tags.
        end: The largest time, included where finite.
    """

    process: str
    label: str
    symbol: str
    end: float


class NoiseProcess(ABC):
    """A corruption process: a time axis, an observation, a belief."""

    axis: ClassVar[TimeAxis]

    def check_times(self, times: Sequence[float]) -> None:
        """Refuse inversion times that this process does not have.

        Raises:
            InputError: None are given, one is out of range, or they do not ascend.
        """
        if not len(times):
            raise InputError("times: the list of inversion times is empty; give at least one")
        for time in times:
            if not (0 <= time <= self.axis.end and math.isfinite(time)):
                bound = "or more" if math.isinf(self.axis.end) else f"to {self.axis.end:g}"
                raise InputError(f"times: {time:g} is out of range; {self.axis.label}: 0 {bound}")
        if any(b <= a for a, b in pairwise(times)):
            raise InputError("times: inversion times must ascend, each given once")

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        """Uniform numbers that `corrupt` takes per datum."""
        return 0

    @abstractmethod
    def effective_noise(self, time: float, num_features: int) -> float:
        r"""Expect the mean belief in a wrong symbol, times v: the epsilon of this time.

        .. math:: \epsilon(t) = v \, \langle \nu_\uparrow^{(0)}(x' \ne x) \rangle
           \qquad \text{(Eq. 60)}

        Args:
            time: Inversion time.
            num_features: v.
        """

    @abstractmethod
    def corrupt(self, leaves: Tensor, time: float, draws: Tensor, num_features: int) -> Tensor:
        """Observe leaves at a time.

        Args:
            leaves: Symbols, int64, shape (B, d).
            time: Inversion time.
            draws: Uniform numbers in [0, 1), float64, shape (B, `num_draws`).
            num_features: v.

        Returns:
            What `messages` takes: int64 symbols, shape (B, d), or vectors, shape (B, d, v).
        """

    @abstractmethod
    def messages(
        self, observed: Tensor, time: float, num_features: int, dtype: torch.dtype
    ) -> Tensor:
        """Believe what an observation says of each leaf on its own.

        Args:
            observed: What `corrupt` returned for this time.
            time: Inversion time.
            num_features: v.
            dtype: float32 or float64.

        Returns:
            Normalised leaf messages, shape (B, d, v).
        """


class EpsilonNoise(NoiseProcess):
    r"""The :math:`\epsilon`-process (Eq. 6-7, 17-18).

    .. math:: \nu_\uparrow(x) = 1 - \epsilon + \epsilon/v, \qquad
       \nu_\uparrow(x' \ne x) = \epsilon/v

    Args:
        strings: With `False`, as in the paper, the belief is centred on the true symbol itself
            and nothing is random. With `True` a string is really corrupted, each symbol replaced
            with probability epsilon by a uniform one (which may be the same), and the belief is
            centred on the symbol received: exact inference over a noisy channel.
    """

    axis = TimeAxis("epsilon", "noise ε", "ε", 1.0)

    def __init__(self, strings: bool = False) -> None:
        self.strings = strings

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        """Two per leaf where strings are corrupted, none otherwise."""
        return 2 * num_leaves if self.strings else 0

    def effective_noise(self, time: float, num_features: int) -> float:
        """Epsilon itself; with strings, where the belief may centre on a wrong symbol, more."""
        right = 1 - time + time / num_features
        if not self.strings:
            return time
        wrong = time / num_features
        return (1 - right**2 - (1 - right) * wrong) * num_features / (num_features - 1)

    def corrupt(self, leaves: Tensor, time: float, draws: Tensor, num_features: int) -> Tensor:
        """Replace symbols, where `strings` asks for it; int64, shape (B, d)."""
        if not self.strings:
            return leaves
        whether, which = draws.chunk(2, dim=1)
        return torch.where(whether < time, (which * num_features).long(), leaves)

    def messages(
        self, observed: Tensor, time: float, num_features: int, dtype: torch.dtype
    ) -> Tensor:
        """Eq. 7 around the observed symbols."""
        belief = torch.full((num_features, num_features), time / num_features, dtype=torch.float64)
        belief.fill_diagonal_(1 - time + time / num_features)
        return belief.to(observed.device, dtype)[observed]


class MaskingNoise(NoiseProcess):
    """Each leaf is erased with a probability equal to the time, and kept otherwise.

    A masked leaf carries the symbol v, one past the alphabet, and no information.
    """

    axis = TimeAxis("masking", "masked fraction", "masked", 1.0)

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        """One per leaf."""
        return num_leaves

    def effective_noise(self, time: float, num_features: int) -> float:
        """The masked fraction."""
        return time

    def corrupt(self, leaves: Tensor, time: float, draws: Tensor, num_features: int) -> Tensor:
        """Erase leaves; int64 in {0, ..., v}, shape (B, d)."""
        return torch.where(draws < time, num_features, leaves)

    def messages(
        self, observed: Tensor, time: float, num_features: int, dtype: torch.dtype
    ) -> Tensor:
        """Certainty where a leaf was kept, the uniform belief where it was masked."""
        kept = torch.eye(num_features, dtype=dtype)
        masked = torch.full((1, num_features), 1 / num_features, dtype=dtype)
        return torch.cat((kept, masked)).to(observed.device)[observed]


def diffuse(x_0: Tensor, time: float, draws: Tensor) -> Tensor:
    r"""Add Gaussian noise (Eq. 9).

    .. math:: x_t = \sqrt{\alpha_t} x_0 + \sqrt{1 - \alpha_t} \eta, \qquad \alpha_t = e^{-2t}

    Args:
        x_0: Any type, shape (B, ...).
        time: Diffusion time t.
        draws: Uniform numbers in [0, 1), float64, as many as x_0 has.

    Returns:
        float64, the shape of x_0.
    """
    eta = normal(draws).view(x_0.shape)
    return math.exp(-time) * x_0.double() + math.sqrt(-math.expm1(-2 * time)) * eta


def normal_grid(num: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give nodes and weights that integrate smooth functions of a standard normal number."""
    nodes, step = np.linspace(-9, 9, num, retstep=True)
    return nodes, np.exp(-(nodes**2) / 2) * step / math.sqrt(2 * math.pi)


def normal(draws: Tensor) -> Tensor:
    """Turn uniform numbers in [0, 1) into standard normal ones, by the quantile."""
    # Inside (0, 1), so that the quantile is finite.
    quantiles: Tensor = torch.special.ndtri((draws + 2.0**-54).clamp(max=1 - 2.0**-53))
    return quantiles


class GaussianNoise(NoiseProcess):
    r"""Diffusion of one-hot vectors in :math:`R^v` (Eq. 9), with :math:`\alpha_t = e^{-2t}`.

    .. math:: p(x_0 = e_\mu \mid x_t) \propto
       \exp\Big( \frac{\sqrt{\alpha_t}}{1 - \alpha_t} x_{t,\mu} \Big)
       \qquad \text{(Eq. 4, 12)}
    """

    axis = TimeAxis("gaussian", "diffusion time t", "t", math.inf)

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        """One per leaf and symbol."""
        return num_leaves * num_features

    def effective_noise(self, time: float, num_features: int) -> float:
        r"""Integrate Eq. 60 numerically, to better than 1e-6.

        Eq. 12 is a softmax of independent normal numbers of standard deviation
        :math:`b = \sqrt{\alpha_t / (1 - \alpha_t)}` and of mean 0, but :math:`b^2` for the true
        symbol. A softmax is the probability that its entry is the largest once Gumbel numbers G
        are added, so with H the distribution of :math:`b \eta + G` and h its density

        .. math:: \langle \nu_\uparrow(x) \rangle = \int h(y - b^2) \, H(y)^{v - 1} \, dy, \qquad
           \epsilon = \frac{v}{v - 1} \big( 1 - \langle \nu_\uparrow(x) \rangle \big)
        """
        snr = math.exp(-2 * time) / -math.expm1(-2 * time) if time else math.inf
        if snr > _CERTAIN:
            return 0.0
        b = math.sqrt(snr)
        eta, weights = normal_grid(_NODES)
        # h falls below 1e-16 outside of this: G > -4 and G < 40, up to nine deviations of b eta.
        z = np.linspace(-4 - 9 * b, 40 + 9 * b, _NODES)
        gumbel = np.exp(b * eta - z[:, None])
        density = (gumbel * np.exp(-gumbel)) @ weights
        others = (np.exp(-math.exp(-snr) * gumbel) @ weights) ** (num_features - 1)
        right = float(np.trapezoid(density * others, z))
        return (1 - right) * num_features / (num_features - 1)

    def corrupt(self, leaves: Tensor, time: float, draws: Tensor, num_features: int) -> Tensor:
        """Diffuse one-hot vectors; float64, shape (B, d, v)."""
        return diffuse(one_hot(leaves, num_features), time, draws)

    def messages(
        self, observed: Tensor, time: float, num_features: int, dtype: torch.dtype
    ) -> Tensor:
        """Eq. 12; at t = 0 its limit, certainty."""
        if time == 0:
            certain: Tensor = one_hot(observed.argmax(-1), num_features).to(dtype)
            return certain
        # A time so small that the quotient overflows means certainty as well.
        scale = math.exp(-time) / max(-math.expm1(-2 * time), 1e-300)
        return torch.softmax(scale * observed, dim=-1).to(dtype)
