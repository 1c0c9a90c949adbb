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

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lit_hier.errors import InputError, one_line

_MEAN: Final = 0.1
_VARIANCES: Final = torch.tensor([0.05, 0.25, 1.0], dtype=torch.float64)
_SIZE: Final = 0.1  # of a perturbation: no scheduler clips images this close to 0
_FACTOR, _FLOOR = 1.25, 0.01  # of the deviation of a first-order solver, and for rounding
_NORMALS: Final = (torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_)
_FEW_STEPS: Final = 20
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

    mean: Tensor
    standard_deviation: Tensor
    correlation: Tensor
    """Its correlation with x_0."""


def check_exactness(solver: Solver) -> None:
    """Check that a solver samples Gaussian data as a solver of its kind must.

    It is checked from all inversion steps if S is small, else from the first two, a quarter and the
    last, which takes less than a second for S = 250.

    Args:
        solver: A reverse process.

    Raises:
        InputError: It fails, or its samples deviate by more than a first-order solver's would.
    """
    num = solver.num_steps
    for k in range(1, num + 1) if num <= _FEW_STEPS else (1, 2, num // 4, num):
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
    alphas = [solver.alphas_cumprod[step] for step in solver.timesteps[:num]]
    signal = torch.zeros((), dtype=torch.float64)  # of x_k
    if k < solver.num_steps:
        signal = solver.alphas_cumprod[solver.timesteps[k]]

    def moments(gain: Tensor, added: Tensor) -> Moments:
        """Of samples mu + gain (x_k - sqrt(alpha) mu) + noise of a variance."""
        offset = gain * (signal.sqrt() - alphas[-1].sqrt()) * _MEAN
        return _moments(offset, gain * signal.sqrt(), gain**2 * (1 - signal) + added)

    x = _perturb(solver, k, num)
    slopes = (x[1:] - x[0]) / _SIZE
    found = _moments(x[0] - _MEAN, slopes[0], (slopes[1:] ** 2).sum(0))
    if slopes[2:].any():  # the solver adds noise
        x_0, eta = _denoiser(alphas[-1])
        exact = moments(x_0, (1 - alphas[-1]).sqrt() * eta * _VARIANCES)
        references = [moments(*_first_order(alphas, kind)) for kind in ("small", "large")]
    else:
        total = alphas[-1] * _VARIANCES + 1 - alphas[-1]
        exact = moments((_VARIANCES / total).sqrt(), torch.zeros_like(_VARIANCES))
        references = [moments(*_first_order(alphas, None))]
    units = Moments(_VARIANCES.sqrt(), exact.standard_deviation, torch.ones_like(_VARIANCES))
    allowed = Moments(
        *(
            _FACTOR * torch.stack([(value - right).abs() for value in values]).amax(0)
            + _FLOOR * unit
            for right, unit, *values in zip(exact, units, *references, strict=True)
        )
    )
    return found, exact, allowed


def _moments(offset: Tensor, slope: Tensor, rest: Tensor) -> Moments:
    """Return the moments of mu + offset + slope (x_0 - mu) + something of a variance `rest`."""
    spread = (slope**2 * _VARIANCES + rest).sqrt()
    correlation = slope * _VARIANCES.sqrt() / spread.clamp(min=1e-12)
    return Moments(_MEAN + offset, spread, correlation)


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
        excess = ((found - exact).abs() / allowed).nan_to_num(torch.inf)
        if excess.max() > 1:
            i = int(excess.argmax())
            raise InputError(
                f"scheduler: {kind} is wrong for this model: on Gaussian data with a deviation of"
                f" {float(_VARIANCES[i].sqrt()):.3g}, from step {k} of {solver.num_steps}, the"
                f" {name.replace('_', ' ')} is {float(found[i]):.3g}, not {float(exact[i]):.3g}"
                f" within {float(allowed[i]):.2g}; give another scheduler or num_steps"
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


def _perturb(solver: Solver, k: int, num: int) -> Tensor:
    """Run a solver on the mean of the data, and with each of its inputs perturbed.

    Returns:
        Samples, one row for the mean, x_0, the noise of x_k and each random number, one column
        per variance.
    """
    config = solver.scheduler.config
    prediction, learned = config.get("prediction_type", "epsilon"), config.get("variance_type")
    before = dict(zip(solver.timesteps[1:], solver.timesteps, strict=False))

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        step = int(timesteps[0])
        alpha = solver.alphas_cumprod[step]
        y = x - alpha.sqrt() * _MEAN
        x_0, eta = (factor * y for factor in _denoiser(alpha))
        outputs = {"epsilon": eta, "sample": _MEAN + x_0}
        outputs["v_prediction"] = alpha.sqrt() * eta - (1 - alpha).sqrt() * outputs["sample"]
        output = outputs[prediction]
        if learned not in ("learned", "learned_range"):
            return output
        previous = solver.alphas_cumprod[before[step]] if step in before else alpha.new_ones(())
        variance, low, high = _posterior(alpha, previous)
        if learned == "learned_range":
            variance = 2 * (variance / low).log() / (high / low).log() - 1
        return torch.cat((output, variance.expand_as(output)), 1)

    rows = 3 + _MAX_DRAWS * num
    x_0 = torch.full((1, 1, rows, len(_VARIANCES)), _MEAN)
    x_0[..., 1, :] += _SIZE
    with _Perturbation(type(solver.scheduler).__name__, rows):
        x = solver.sample(denoise, x_0, [k], [[torch.Generator()]], 1)
    return x[0, 0, 0].double()


def _denoiser(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return what takes x_t - sqrt(alpha) mu to E[x_0 | x_t] - mu, and to E[eta | x_t]."""
    total = alpha * _VARIANCES + 1 - alpha
    return alpha.sqrt() * _VARIANCES / total, (1 - alpha).sqrt() / total


def _posterior(alpha: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the variance of the step before, given x_t; given x_0 too; and its upper bound."""
    beta = 1 - alpha / previous
    low = ((1 - previous) / (1 - alpha) * beta).clamp(min=1e-20)
    rest = _VARIANCES * (1 - alpha) / (alpha * _VARIANCES + 1 - alpha)  # of x_0
    return low + previous * (beta / (1 - alpha)) ** 2 * rest, low, beta


def _first_order(alphas: Sequence[Tensor], noise: str | None) -> tuple[Tensor, Tensor]:
    """Return what a first-order solver multiplies x_t by, and the variance that it adds.

    Args:
        alphas: Cumulative products of alpha at the steps, ascending.
        noise: None for DDIM; `small` or `large` for the ancestral sampler of this variance.
    """
    gain, added = torch.ones_like(_VARIANCES), torch.zeros_like(_VARIANCES)
    one = alphas[0].new_ones(())
    for alpha, previous in zip(reversed(alphas), [*reversed(alphas[:-1]), one], strict=True):
        x_0, eta = _denoiser(alpha)
        _, low, high = _posterior(alpha, previous)
        kept = 1 - previous  # variance along eta
        if noise is not None:
            kept = kept - low
        factor = previous.sqrt() * x_0 + kept.clamp(min=0).sqrt() * eta
        variance = {None: 0 * one, "small": low, "large": high if previous < 1 else low}[noise]
        gain, added = factor * gain, factor**2 * added + variance
    return gain, added
