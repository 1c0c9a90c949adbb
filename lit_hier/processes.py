r"""Corruption processes: how leaves are corrupted, and the beliefs that observations imply.

Every process has its own time axis; time 0 leaves the leaves unchanged.

=========== ============================== =====================================================
process     time                           observation of a leaf with symbol x
=========== ============================== =====================================================
`epsilon`   epsilon in [0, 1]              belief 1 - epsilon + epsilon/v in x itself (Eq. 6-7);
                                           or, for strings, x kept with probability 1 - epsilon
                                           and otherwise replaced by a uniform symbol
`gaussian`  diffusion time t in [0, inf)   :math:`x_t = \sqrt{\alpha_t} e_x +
                                           \sqrt{1 - \alpha_t} \eta`,
                                           :math:`\alpha_t = e^{-2t}` (Eq. 9)
`masking`   masked fraction in [0, 1]      x kept, or masked with a probability equal to the time
=========== ============================== =====================================================

The belief in a leaf is the message with which belief propagation starts there: the likelihood of
the observation given each symbol, normalized over symbols.

Two numbers put all processes on a common axis: the effective noise epsilon(t), an average of
beliefs (Eq. 60), and the information I(x_0; x_t) that an observation holds about its leaf.

For denoisers that iterate, each channel has a reverse step too: the bridge
:math:`q(x_\tau \mid x_t, x_0)` to an earlier time :math:`\tau < t`, by Bayes' rule for its Markov
chain.

Source: Sections 4 and 5 and Appendices A and B.1 of the paper.
"""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from types import CodeType, FunctionType
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy import ndarray
from scipy.special import entr
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.errors import InputError

_MAX_SNR: Final = 144.0  # above this signal-to-noise ratio, effective noise is below 1e-12
_NUM_NODES: Final = 601  # of the quadratures that compute effective noise


@dataclass(frozen=True)
class TimeAxis:
    """The meaning of an inversion time.

    Attributes:
        process: Name of the process in tables.
        label: Label of the axis in figures.
        symbol: Symbol of the time in progress bars and tags.
        end: Largest time, included if finite.
    """

    process: str
    label: str
    symbol: str
    end: float


class NoiseProcess(ABC):
    """A corruption process: a time axis, an observation and the belief that follows from it."""

    axis: TimeAxis

    @property
    def key(self) -> str:
        """The process and its arguments, as an identity for results that are kept.

        Functions among its attributes count by their code, so that another run has the same key.
        """
        arguments = ", ".join(f"{name!r}: {_describe(x)}" for name, x in vars(self).items())
        return f"{type(self).__module__}.{type(self).__qualname__} {{{arguments}}}"

    @property
    def erases(self) -> bool:
        """Whether an observation either is the symbol or says nothing of it, as under masking."""
        return False

    def check_times(self, times: Sequence[float]) -> None:
        """Raise unless inversion times lie on this process's axis and ascend.

        Raises:
            InputError: `times` is empty, out of range, not finite or not strictly ascending.
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
        """Return the number of uniform draws that `corrupt` uses per datum."""
        return 0

    def check_channel(self, action: str) -> None:
        """Raise if messages reveal the leaves, so that a network has nothing to do.

        Args:
            action: What the network would do, such as `denoise`.

        Raises:
            InputError: The process is not a channel.
        """
        if not self.is_channel:
            raise InputError(
                f"process: the messages of the {self.axis.process} process reveal the leaves, so"
                f" that there is nothing to {action}; give masking, strings (EpsilonNoise with"
                " strings: true) or gaussian"
            )

    @abstractmethod
    def effective_noise(self, time: float, num_features: int) -> float:
        r"""Return the expected belief in a wrong symbol, times v: the epsilon of this time.

        .. math:: \epsilon(t) = v \, \langle \nu_\uparrow^{(0)}(x' \ne x) \rangle
           \qquad \text{(Eq. 60)}

        Args:
            time: Inversion time.
            num_features: v.
        """

    def information(self, time: float, num_features: int) -> float:
        r"""Return the expected information of a leaf's observation about a uniform symbol.

        .. math:: I(x_0; x_t) = \ln v - \langle H(\nu_\uparrow^{(0)}) \rangle

        with H the entropy of the belief. Where beliefs follow from a channel by Bayes' rule, this
        is the mutual information of a leaf and its observation; elsewhere, as for the
        epsilon-process, it is the information that the belief claims.

        Args:
            time: Inversion time.
            num_features: v.

        Returns:
            Nats, from ln v at time 0 to 0; NaN if it is unknown, as by default.
        """
        return math.nan

    @abstractmethod
    def corrupt(
        self,
        leaves: Int64[Tensor, "B d"],
        time: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Int64[Tensor, "B d"] | Float64[Tensor, "B d {num_features}"]:
        """Corrupt leaves to an inversion time.

        Args:
            leaves: Symbols.
            time: Inversion time.
            draws: Uniform numbers in [0, 1), `num_draws` for each datum.
            num_features: v.

        Returns:
            The observation that `messages` takes: a symbol or a vector for each leaf.
        """

    @abstractmethod
    def messages(
        self,
        observed: Int64[Tensor, "B d"] | Float[Tensor, "B d {num_features}"],
        time: float,
        num_features: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B d {num_features}"]:
        """Return the belief in each leaf given its own observation.

        Args:
            observed: The output of `corrupt` at this time.
            time: Inversion time.
            num_features: v.
            dtype: Type of the messages, float32 or float64.

        Returns:
            Leaf messages, normalized over symbols.
        """

    @property
    def is_channel(self) -> bool:
        """Whether messages are likelihoods of what is observed, so that Bayes' rule holds."""
        return True

    def observe(
        self,
        leaves: Int64[Tensor, "B d"],
        times: Float64[Tensor, " B"],
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B d {num_features}"]:
        """Corrupt each datum to a time of its own; return the leaf messages.

        By default, `corrupt` and `messages` of one datum after another.

        Args:
            leaves: Symbols.
            times: Time of each datum.
            draws: Uniform numbers in [0, 1), `num_draws` for each datum.
            num_features: v.
            dtype: Type of the messages, float32 or float64.
        """
        messages = leaves.new_empty((*leaves.shape, num_features), dtype=dtype)
        for row, time in enumerate(times.tolist()):
            datum = slice(row, row + 1)
            observed = self.corrupt(leaves[datum], time, draws[datum], num_features)
            messages[datum] = self.messages(observed, time, num_features, dtype)
        return messages

    def predicted(self, messages: Float[Tensor, "B d v"]) -> Bool[Tensor, "B d"]:
        """Return the leaves that a denoiser must predict: whose message is not one-hot."""
        return messages.amax(-1) < 1

    def num_reverse_draws(self, num_leaves: int, num_features: int) -> int:
        """Return the number of uniform draws that `reverse` uses per datum.

        Raises:
            InputError: The process has no reverse step.
        """
        raise self._irreversible()

    def _irreversible(self) -> InputError:
        return InputError(
            f"process: the {self.axis.process} process has no reverse step, which a denoiser that"
            " iterates needs; give masking, strings (EpsilonNoise with strings: true) or gaussian,"
            " a process with `reverse` and `num_reverse_draws`, or as many steps as leaves"
        )

    def reverse(
        self,
        observed: Int64[Tensor, "B d"] | Float[Tensor, "B d {num_features}"],
        leaves: Int64[Tensor, "B d"],
        start: float,
        end: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Int64[Tensor, "B d"] | Float[Tensor, "B d {num_features}"]:
        r"""Sample the bridge to an earlier time, :math:`q(x_\tau \mid x_t, x_0)`.

        Args:
            observed: x_t, as `corrupt` returns it at the time `start`.
            leaves: Symbols x_0.
            start: Time t, above 0.
            end: Time :math:`\tau`, below t, at least 0.
            draws: Uniform numbers in [0, 1), `num_reverse_draws` for each datum.
            num_features: v.

        Returns:
            :math:`x_\tau`, as `corrupt` returns it at the time `end`, with the type of `observed`.

        Raises:
            InputError: The process has no reverse step, as by default.
        """
        raise self._irreversible()


def _describe(value: Any) -> str:
    """Return what a value is, without its address in memory."""
    if not isinstance(value, FunctionType):
        return _without_addresses(repr(value))
    parts = [*_parts(value.__code__), repr(value.__defaults__)]
    for cell in value.__closure__ or ():
        with suppress(ValueError):  # an empty cell
            parts.append(repr(cell.cell_contents))
    digest = hashlib.sha256(_without_addresses(" ".join(parts)).encode()).hexdigest()[:12]
    return f"<function {value.__module__}.{value.__qualname__} {digest}>"


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _parts(code: CodeType) -> list[str]:
    """Return what decides a function's output, without its place in a file."""
    parts = [code.co_code.hex(), *code.co_names]
    for constant in code.co_consts:
        parts += _parts(constant) if isinstance(constant, CodeType) else [repr(constant)]
    return parts


class EpsilonNoise(NoiseProcess):
    r"""The :math:`\epsilon`-process (Eq. 6-7, 17-18).

    .. math:: \nu_\uparrow(x) = 1 - \epsilon + \epsilon/v, \qquad
       \nu_\uparrow(x' \ne x) = \epsilon/v

    Args:
        strings: If `False`, as in the paper, the belief is centered on the true symbol and nothing
            is random. If `True`, the string itself is corrupted: each symbol is replaced with
            probability epsilon by a uniform one, which may be the same, and the belief is centered
            on the observed symbol; this is exact inference over a noisy channel.
    """

    axis = TimeAxis("epsilon", "noise ε", "ε", 1.0)

    def __init__(self, strings: bool = False) -> None:
        self.strings = strings
        if strings:
            self.axis = replace(self.axis, process="strings")

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        """Return 2 per leaf if strings are corrupted, otherwise 0."""
        return 2 * num_leaves if self.strings else 0

    def effective_noise(self, time: float, num_features: int) -> float:
        """Return epsilon; for strings more, as the belief may be centered on a wrong symbol."""
        right = 1 - time + time / num_features
        if not self.strings:
            return time
        wrong = time / num_features
        return (1 - right**2 - (1 - right) * wrong) * num_features / (num_features - 1)

    def information(self, time: float, num_features: int) -> float:
        """Return ln v minus the entropy of Eq. 7, wherever the belief is centered.

        For strings it is the mutual information of a symbol and the corrupted one. Otherwise the
        belief is centered on the true symbol, which is no channel: an observer who knew this would
        know the symbol.
        """
        wrong = time / num_features
        entropy = entr(1 - time + wrong) + (num_features - 1) * entr(wrong)
        return math.log(num_features) - float(entropy)

    def corrupt(
        self,
        leaves: Int64[Tensor, "B d"],
        time: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Int64[Tensor, "B d"]:
        """Replace symbols if `strings` is set; otherwise return the leaves."""
        if not self.strings:
            return leaves
        replacement, symbol = draws.chunk(2, dim=1)
        return torch.where(replacement < time, (symbol * num_features).long(), leaves)

    def messages(
        self, observed: Int64[Tensor, "B d"], time: float, num_features: int, dtype: torch.dtype
    ) -> Float[Tensor, "B d {num_features}"]:
        """Return Eq. 7, centered on the observed symbols."""
        shape, device = (num_features, num_features), observed.device
        belief = torch.full(shape, time / num_features, dtype=torch.float64, device=device)
        belief.fill_diagonal_(1 - time + time / num_features)
        return belief.to(dtype)[observed]

    @property
    def is_channel(self) -> bool:
        """Whether strings are corrupted; a belief centered on the truth is no channel."""
        return self.strings

    def observe(
        self,
        leaves: Int64[Tensor, "B d"],
        times: Float64[Tensor, " B"],
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B d {num_features}"]:
        """Replace symbols, each datum's with its own probability; return Eq. 7."""
        observed = leaves
        if self.strings:
            replacement, symbol = draws.chunk(2, dim=1)
            random = (symbol * num_features).long()
            observed = torch.where(replacement < times[:, None], random, leaves)
        wrong = times / num_features
        right = (1 - times + wrong).to(dtype)[:, None, None].expand(*leaves.shape, 1)
        messages = wrong.to(dtype)[:, None, None].repeat(1, leaves.shape[1], num_features)
        return messages.scatter_(-1, observed[..., None], right)

    def num_reverse_draws(self, num_leaves: int, num_features: int) -> int:
        """Return 2 per leaf if strings are corrupted.

        Raises:
            InputError: `strings` is not set: the process has no reverse step.
        """
        return 2 * num_leaves if self.strings else super().num_reverse_draws(0, 0)

    def reverse(
        self,
        observed: Int64[Tensor, "B d"],
        leaves: Int64[Tensor, "B d"],
        start: float,
        end: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Int64[Tensor, "B d"]:
        r"""Sample the Bayes bridge of the symmetric channel.

        With :math:`\kappa = (1 - t)/(1 - \tau)` the probability that a symbol at :math:`\tau` is
        kept until t,

        .. math:: q(x_\tau \mid x_t, x_0) \propto
           \big[\kappa \, \delta_{x_\tau x_t} + (1 - \kappa)/v\big]
           \big[(1 - \tau) \, \delta_{x_\tau x_0} + \tau/v\big]

        Of the four products, one is x_t, one is x_0, one is a uniform symbol, and one is both x_t
        and x_0 and vanishes where they differ.
        """
        self.num_reverse_draws(leaves.shape[1], num_features)
        kept = (1 - start) / (1 - end)
        both = kept * (1 - end) * num_features
        of_observed, of_leaves = kept * end, (1 - kept) * (1 - end)
        of_either = of_observed + of_leaves + both * (observed == leaves)
        choice, symbol = draws.chunk(2, dim=1)
        choice = choice * (of_either + (1 - kept) * end)
        reversed_ = torch.where(choice < of_either, leaves, (symbol * num_features).long())
        return torch.where(choice < of_observed, observed, reversed_)


class MaskingNoise(NoiseProcess):
    """Each leaf is masked with a probability equal to the time, and kept otherwise.

    A masked leaf has the symbol v, one past the alphabet, and carries no information.
    """

    axis = TimeAxis("masking", "masked fraction", "masked", 1.0)

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        """Return 1 per leaf."""
        return num_leaves

    @property
    def erases(self) -> bool:
        """True."""
        return True

    def effective_noise(self, time: float, num_features: int) -> float:
        """Return the masked fraction."""
        return time

    def information(self, time: float, num_features: int) -> float:
        """Return ln v for the share of leaves that is kept."""
        return (1 - time) * math.log(num_features)

    def corrupt(
        self,
        leaves: Int64[Tensor, "B d"],
        time: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Int64[Tensor, "B d"]:
        """Mask leaves; symbols are 0 to v, and v means masked."""
        return torch.where(draws < time, num_features, leaves)

    def messages(
        self, observed: Int64[Tensor, "B d"], time: float, num_features: int, dtype: torch.dtype
    ) -> Float[Tensor, "B d {num_features}"]:
        """Return a one-hot belief for each kept leaf and a uniform one for each masked leaf."""
        kept = torch.eye(num_features, dtype=dtype, device=observed.device)
        masked = kept.new_full((1, num_features), 1 / num_features)
        return torch.cat((kept, masked))[observed]

    def observe(
        self,
        leaves: Int64[Tensor, "B d"],
        times: Float64[Tensor, " B"],
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B d {num_features}"]:
        """Mask each datum's leaves with its own probability."""
        observed = torch.where(draws < times[:, None], num_features, leaves)
        return self.messages(observed, math.nan, num_features, dtype)

    def num_reverse_draws(self, num_leaves: int, num_features: int) -> int:
        """Return 1 per leaf."""
        return num_leaves

    def reverse(
        self,
        observed: Int64[Tensor, "B d"],
        leaves: Int64[Tensor, "B d"],
        start: float,
        end: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Int64[Tensor, "B d"]:
        r"""Reveal x_0 at masked leaves with probability :math:`1 - \tau/t`."""
        revealed = (observed == num_features) & (draws * start >= end)
        return torch.where(revealed, leaves, observed)


def _signal_to_noise(time: float) -> float:
    r"""Return :math:`\alpha_t / (1 - \alpha_t)`."""
    return math.exp(-2 * time) / -math.expm1(-2 * time) if time else math.inf


def diffuse(
    x_0: Shaped[Tensor, " B *shape"], time: float, draws: Float64[Tensor, "B num_draws"]
) -> Float64[Tensor, " B *shape"]:
    r"""Add Gaussian noise (Eq. 9).

    .. math:: x_t = \sqrt{\alpha_t} x_0 + \sqrt{1 - \alpha_t} \eta, \qquad \alpha_t = e^{-2t}

    Args:
        x_0: Data of any type.
        time: Diffusion time t.
        draws: Uniform numbers in [0, 1), one for each entry of `x_0`.

    Returns:
        x_t, with the shape of `x_0`.
    """
    eta = normal_quantile(draws).view(x_0.shape)
    return math.exp(-time) * x_0.double() + math.sqrt(-math.expm1(-2 * time)) * eta


def normal_quantile(draws: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Transform uniform numbers in [0, 1) to standard normal ones."""
    # Inside (0, 1), so that the quantile is finite.
    quantiles: Tensor = torch.special.ndtri((draws + 2.0**-54).clamp(max=1 - 2.0**-53))
    return quantiles


def normal_quadrature(num: int) -> tuple[Float64[ndarray, " {num}"], Float64[ndarray, " {num}"]]:
    """Return nodes and weights of the expected value of a smooth function of a standard normal."""
    nodes, step = np.linspace(-9, 9, num, retstep=True)
    return nodes, np.exp(-(nodes**2) / 2) * step / math.sqrt(2 * math.pi)


class GaussianNoise(NoiseProcess):
    r"""Diffusion of one-hot vectors in :math:`R^v` (Eq. 9), with :math:`\alpha_t = e^{-2t}`.

    .. math:: p(x_0 = e_\mu \mid x_t) \propto
       \exp\Big( \frac{\sqrt{\alpha_t}}{1 - \alpha_t} x_{t,\mu} \Big)
       \qquad \text{(Eq. 4, 12)}
    """

    axis = TimeAxis("gaussian", "diffusion time t", "t", math.inf)

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        """Return 1 per leaf and symbol."""
        return num_leaves * num_features

    def effective_noise(self, time: float, num_features: int) -> float:
        r"""Compute Eq. 60 by quadrature, to better than 1e-6.

        The belief of Eq. 12 is a softmax of independent normal variables with standard deviation
        :math:`b = \sqrt{\alpha_t / (1 - \alpha_t)}` and mean :math:`b^2` for the true symbol, 0
        for the others. An entry of a softmax is the probability that its logit is the largest
        after independent Gumbel variables G are added. With H the distribution function of
        :math:`b \eta + G` and h its density,

        .. math:: \langle \nu_\uparrow(x) \rangle = \int h(y - b^2) \, H(y)^{v - 1} \, dy, \qquad
           \epsilon = \frac{v}{v - 1} \big( 1 - \langle \nu_\uparrow(x) \rangle \big)
        """
        snr = _signal_to_noise(time)
        if snr > _MAX_SNR:
            return 0.0
        b = math.sqrt(snr)
        eta, weights = normal_quadrature(_NUM_NODES)
        # Outside, h is below 1e-16: G lies in (-4, 40) and b eta within nine deviations.
        z = np.linspace(-4 - 9 * b, 40 + 9 * b, _NUM_NODES)
        gumbel = np.exp(b * eta - z[:, None])
        density = (gumbel * np.exp(-gumbel)) @ weights
        others = (np.exp(-math.exp(-snr) * gumbel) @ weights) ** (num_features - 1)
        right = float(np.trapezoid(density * others, z))
        return (1 - right) * num_features / (num_features - 1)

    def information(self, time: float, num_features: int) -> float:
        r"""Compute the mutual information of symbol and observation by quadrature, to 1e-6 nats.

        By Bayes' rule it is :math:`\ln v + \langle \ln \nu_\uparrow(x) \rangle`, and a softmax's
        logarithm is the true logit minus the logarithm of the denominator. The latter's expected
        value is that of the largest logit after independent Gumbel variables are added, minus
        Euler's constant. In the notation of `effective_noise`,

        .. math:: I(x_0; x_t) = \ln v + b^2 + \gamma - \int y \,
           d\big[ H(y - b^2) \, H(y)^{v - 1} \big]
        """
        snr = _signal_to_noise(time)
        if snr > _MAX_SNR:
            return math.log(num_features)
        b = math.sqrt(snr)
        eta, weights = normal_quadrature(_NUM_NODES)
        y = np.linspace(-4 - 9 * b, 40 + 9 * b + snr, _NUM_NODES)
        gumbel = np.exp(b * eta - y[:, None])
        others = (np.exp(-gumbel) @ weights) ** (num_features - 1)
        below = (np.exp(-math.exp(snr) * gumbel) @ weights) * others
        largest = float(y[0] + np.trapezoid(1 - below, y))
        return max(0.0, math.log(num_features) + snr + np.euler_gamma - largest)

    def corrupt(
        self,
        leaves: Int64[Tensor, "B d"],
        time: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Float64[Tensor, "B d {num_features}"]:
        """Diffuse one-hot vectors."""
        return diffuse(one_hot(leaves, num_features), time, draws)

    def messages(
        self,
        observed: Float[Tensor, "B d {num_features}"],
        time: float,
        num_features: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B d {num_features}"]:
        """Return Eq. 12; at t = 0 its limit, a one-hot belief."""
        if time == 0:
            certain: Tensor = one_hot(observed.argmax(-1), num_features).to(dtype)
            return certain
        # Where the time is so small that the quotient overflows, the belief is one-hot as well.
        scale = math.exp(-time) / max(-math.expm1(-2 * time), 1e-300)
        logits = scale * observed
        if logits.dtype == torch.float64:
            return torch.softmax(logits, dim=-1).to(dtype)
        # As a denoiser iterates, in float32: several times faster than softmax over few symbols.
        weights = (logits - logits.amax(-1, keepdim=True)).exp_()
        return (weights / weights.sum(-1, keepdim=True)).to(dtype)

    def observe(
        self,
        leaves: Int64[Tensor, "B d"],
        times: Float64[Tensor, " B"],
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B d {num_features}"]:
        """Diffuse each datum for its own time; return Eq. 12."""
        variance = -torch.expm1(-2 * times)[:, None, None]
        signal = torch.exp(-times)[:, None, None]
        noise = normal_quantile(draws).view(*leaves.shape, num_features)
        # Both terms of the logit, so that a vanishing variance divides none of the noise.
        scale = signal / variance.clamp(min=1e-300)
        logits = scale * variance.sqrt() * noise
        at_leaves = (scale * signal).expand(*leaves.shape, 1)
        logits = logits.scatter_add_(-1, leaves[..., None], at_leaves)
        return torch.softmax(logits, dim=-1).to(dtype)

    def num_reverse_draws(self, num_leaves: int, num_features: int) -> int:
        """Return 1 per leaf and symbol."""
        return num_leaves * num_features

    def reverse(
        self,
        observed: Float[Tensor, "B d {num_features}"],
        leaves: Int64[Tensor, "B d"],
        start: float,
        end: float,
        draws: Float64[Tensor, "B num_draws"],
        num_features: int,
    ) -> Float[Tensor, "B d {num_features}"]:
        r"""Sample the bridge of the diffusion, a normal distribution.

        With :math:`a = e^{-(t - \tau)}` and :math:`\sigma_t^2 = 1 - \alpha_t`,

        .. math:: q(x_\tau \mid x_t, x_0) = \mathcal N\Big(
           \frac{a \sigma_\tau^2 x_t + (1 - a^2) \sqrt{\alpha_\tau} x_0}{\sigma_t^2}, \;
           \frac{(1 - a^2) \sigma_\tau^2}{\sigma_t^2} \Big)
        """
        total, earlier, later = (-math.expm1(-2 * x) for x in (start, end, start - end))
        # In the type of x_t, by a function that is much faster in float32 than the quantile.
        bound = 1 - torch.finfo(observed.dtype).eps / 2
        noise = draws.to(observed.dtype, copy=True).mul_(2).sub_(1).clamp_(-bound, bound)
        reversed_ = (
            noise.erfinv_().view(observed.shape).mul_(math.sqrt(2 * later * earlier / total))
        )
        reversed_ = reversed_.add_(observed, alpha=math.exp(end - start) * earlier / total)
        shift = observed.new_full((), later * math.exp(-end) / total)
        return reversed_.scatter_add_(-1, leaves[..., None], shift.expand(*leaves.shape, 1))
