r"""Whether a solver samples what it must: a check on Gaussian data, whose exact denoiser is known.

For data :math:`x_0 \sim N(\mu, \sigma^2)` the denoiser is

.. math:: E[x_0 | x_t] = \mu + b_t (x_t - \sqrt{\bar\alpha_t} \mu), \qquad
    b_t = \frac{\sqrt{\bar\alpha_t} \sigma^2}{\bar\alpha_t \sigma^2 + 1 - \bar\alpha_t}

A solver is then linear in x_0 and in every random number, so running it on one perturbation of
each gives the mean, the standard deviation and the correlation with x_0 of its samples without
sampling error. They must be those of :math:`p(x_0 | x_t)` for a solver that draws noise, and those
of the probability flow, :math:`\hat x_0 = \mu + \sigma (x_t - \sqrt{\bar\alpha_t} \mu) /
\sqrt{\bar\alpha_t \sigma^2 + 1 - \bar\alpha_t}`, for one that does not. Correlated Gaussian data
are independent along their principal axes, so a few variances stand for all.

A solver may deviate as much as the first-order solver of its kind does on the same steps: DDIM, or
the ancestral sampler with the smaller or larger of its two fixed variances. With a linear schedule
of 1,000 steps and sigma = 0.5, the standard deviation of DDIM's samples is low by a fraction of
about 2.8 / S, that of the ancestral sampler by about 2.1 / S^0.75.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lit_hier.errors import InputError, one_line

Values = NDArray[np.float64]

_MEAN: Final = 0.1
_VARIANCES: Final = np.array([0.05, 0.25, 1.0])
_SIZE: Final = 0.1  # of a perturbation: no scheduler clips images this close to 0
_FACTOR, _FLOOR = 1.25, 0.01  # of the deviation of a first-order solver, and for rounding
_NORMALS: Final = (torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_)
_FEW_STEPS: Final = 100
_MAX_DRAWS: Final = 2  # random numbers per pixel and step


class Solver(Protocol):
    """What is checked: a reverse process, see `lit_hier.diffusion.reverse.ReverseProcess`."""

    scheduler: Any
    num_steps: int
    timesteps: list[int]
    alphas_cumprod: Tensor

    def num_evaluations(self, k: int) -> int:
        """Return the number of model evaluations from inversion step k."""

    def sample(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        x_0: Tensor,
        steps: Sequence[int],
        generators: Sequence[list[torch.Generator]],
        batch_size: int,
    ) -> Tensor:
        """Run forward-backward."""


class Moments(NamedTuple):
    """Moments of x_reversed over data and noise, each of one value per variance of the data."""

    mean: Values
    standard_deviation: Values
    correlation: Values
    """Its correlation with x_0."""


def check_exactness(solver: Solver) -> None:
    """Check that a solver samples Gaussian data as a solver of its kind must.

    It is checked from a few inversion steps, the first two and the last among them, which takes
    less than a second for S = 250.

    Args:
        solver: A reverse process.

    Raises:
        InputError: It fails, or its samples deviate by more than a first-order solver's would.
    """
    num = solver.num_steps
    steps = {1, 2, max(num // 4, 1), num}
    if num <= _FEW_STEPS:
        steps |= {min(3, num), max(num // 2, 1)}
    for k in sorted(steps):
        _check_step(solver, k)


def measure(solver: Solver, k: int) -> tuple[Moments, Moments, Moments]:
    """Measure the moments of a solver's samples from an inversion step.

    Args:
        solver: A reverse process.
        k: Inversion step, 1 to S.

    Returns:
        The moments of its samples, those that are exact, and the allowed deviations.
    """
    num = solver.num_evaluations(k)
    alphas = solver.alphas_cumprod[solver.timesteps[:num]].tolist()
    signal = 0.0 if k == solver.num_steps else float(solver.alphas_cumprod[solver.timesteps[k]])

    def moments(gain: Values, added: Values) -> Moments:
        """Of samples mu + gain (x_k - sqrt(alpha) mu) + noise of a variance."""
        offset = gain * (signal**0.5 - alphas[-1] ** 0.5) * _MEAN
        return _moments(offset, gain * signal**0.5, gain**2 * (1 - signal) + added)

    x = _perturb(solver, k, num)
    slopes = (x[1:] - x[0]) / _SIZE
    found = _moments(x[0] - _MEAN, slopes[0], (slopes[1:] ** 2).sum(0))
    if slopes[2:].any():  # the solver adds noise
        x_0, eta = _denoiser(alphas[-1])
        exact = moments(x_0, (1 - alphas[-1]) ** 0.5 * eta * _VARIANCES)
        references = [moments(*_first_order(alphas, kind)) for kind in ("small", "large")]
    else:
        total = alphas[-1] * _VARIANCES + 1 - alphas[-1]
        exact = moments((_VARIANCES / total) ** 0.5, 0 * _VARIANCES)
        references = [moments(*_first_order(alphas, None))]
    units = Moments(_VARIANCES**0.5, exact.standard_deviation, np.ones_like(_VARIANCES))
    allowed = Moments(
        *(
            _FACTOR * np.max([abs(value - right) for value in values], axis=0) + _FLOOR * unit
            for right, unit, *values in zip(exact, units, *references, strict=True)
        )
    )
    return found, exact, allowed


def _moments(offset: Values, slope: Values, rest: Values) -> Moments:
    """Return the moments of mu + offset + slope (x_0 - mu) + something of a variance `rest`."""
    spread = (slope**2 * _VARIANCES + rest) ** 0.5
    return Moments(_MEAN + offset, spread, slope * _VARIANCES**0.5 / np.maximum(spread, 1e-12))


def _check_step(solver: Solver, k: int) -> None:
    kind = type(solver.scheduler).__name__
    try:
        measured = measure(solver, k)
    except InputError:
        raise
    except Exception as error:  # of schedulers, which may be the user's own
        raise InputError(
            f"scheduler: {kind} fails from step {k} of {solver.num_steps}:"
            f" {type(error).__name__}: {one_line(error)[:150]}; give another scheduler"
        ) from error
    for name, found, exact, allowed in zip(Moments._fields, *measured, strict=True):
        excess = np.nan_to_num(abs(found - exact) / allowed, nan=math.inf)
        if excess.max() > 1:
            i = int(excess.argmax())
            raise InputError(
                f"scheduler: {kind} is wrong for this model: on Gaussian data with a deviation of"
                f" {_VARIANCES[i] ** 0.5:.3g}, from step {k} of {solver.num_steps}, the"
                f" {name.replace('_', ' ')} is {found[i]:.3g}, not {exact[i]:.3g}"
                f" within {allowed[i]:.2g}; give another scheduler or num_steps"
            )


class _Perturbation(TorchFunctionMode):
    """Replaces each draw of normal numbers by a perturbation of one row."""

    def __init__(self, kind: str, rows: int) -> None:
        super().__init__()
        self._kind = kind
        self._rows = rows
        self._row = 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function; replace what it draws."""
        result = func(*args, **(kwargs or {}))
        if func not in _NORMALS:
            return result
        if not (kwargs or {}).get("generator"):
            raise InputError(
                f"scheduler: {self._kind} draws noise without the generator that it is given, so"
                " samples would not depend on the seed alone; give another scheduler"
            )
        self._row += 1
        if self._row >= self._rows:
            raise InputError(
                f"scheduler: {self._kind} draws noise more than {_MAX_DRAWS} times per step; give"
                " another scheduler"
            )
        result.zero_()[..., self._row, :] = _SIZE
        return result


def _perturb(solver: Solver, k: int, num: int) -> Values:
    """Run a solver on the mean of the data, and with each of its inputs perturbed.

    Returns:
        Samples, one row for the mean, x_0, the noise of x_k and each random number, one column
        per variance.
    """
    config = solver.scheduler.config
    prediction, learned = config.get("prediction_type", "epsilon"), config.get("variance_type")
    alphas = solver.alphas_cumprod[solver.timesteps].tolist()
    indices = {step: j for j, step in enumerate(solver.timesteps)}

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        j = indices[int(timesteps)]
        alpha, previous = alphas[j], alphas[j - 1] if j else 1.0
        x_0, eta = _denoiser(alpha)
        # The output is a + b (x - sqrt(alpha) mu).
        a, b = {
            "epsilon": (0.0, eta),
            "sample": (_MEAN, x_0),
            "v_prediction": (
                -((1 - alpha) ** 0.5) * _MEAN,
                alpha**0.5 * eta - (1 - alpha) ** 0.5 * x_0,
            ),
        }[prediction]
        slope = torch.from_numpy(b)
        output: Tensor = slope * x + (a - alpha**0.5 * _MEAN * slope)
        if learned not in ("learned", "learned_range"):
            return output
        variance, low, high = _posterior(alpha, previous)
        if learned == "learned_range":
            variance = 2 * np.log(variance / low) / math.log(high / low) - 1
        return torch.cat((output, torch.from_numpy(variance).expand_as(output)), 1)

    rows = 3 + _MAX_DRAWS * num
    x_0 = torch.full((1, 1, rows, len(_VARIANCES)), _MEAN)
    x_0[..., 1, :] += _SIZE
    with _Perturbation(type(solver.scheduler).__name__, rows):
        x = solver.sample(denoise, x_0, [k], [[torch.Generator()]], 1)
    samples: Values = x[0, 0, 0].double().numpy()
    return samples


def _denoiser(alpha: float) -> tuple[Values, Values]:
    """Return what takes x_t - sqrt(alpha) mu to E[x_0 | x_t] - mu, and to E[eta | x_t]."""
    total = alpha * _VARIANCES + 1 - alpha
    return alpha**0.5 * _VARIANCES / total, (1 - alpha) ** 0.5 / total


def _posterior(alpha: float, previous: float) -> tuple[Values, float, float]:
    """Return the variance of the step before, given x_t; given x_0 too; and its upper bound."""
    beta = 1 - alpha / previous
    low = max((1 - previous) / (1 - alpha) * beta, 1e-20)
    rest = _VARIANCES * (1 - alpha) / (alpha * _VARIANCES + 1 - alpha)  # of x_0
    return low + previous * (beta / (1 - alpha)) ** 2 * rest, low, beta


def _first_order(alphas: Sequence[float], noise: str | None) -> tuple[Values, Values]:
    """Return what a first-order solver multiplies x_t by, and the variance that it adds.

    Args:
        alphas: Cumulative products of alpha at the steps, ascending.
        noise: None for DDIM; `small` or `large` for the ancestral sampler of this variance.
    """
    gain, added = np.ones_like(_VARIANCES), np.zeros_like(_VARIANCES)
    for alpha, previous in zip(reversed(alphas), [*reversed(alphas[:-1]), 1.0], strict=True):
        x_0, eta = _denoiser(alpha)
        kept, variance = 1 - previous, 0.0  # the variance along eta, and that of new noise
        if noise is not None and previous < 1:
            _, low, high = _posterior(alpha, previous)
            kept, variance = kept - low, low if noise == "small" else high
        factor = previous**0.5 * x_0 + kept**0.5 * eta
        gain, added = factor * gain, factor**2 * added + variance
    return gain, added
