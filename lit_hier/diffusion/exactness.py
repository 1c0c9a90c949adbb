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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lit_hier.errors import InputError, one_line

_MEAN: Final = 0.1
_VARIANCES: Final = torch.tensor([0.05, 0.25, 1.0], dtype=torch.float64)
_SIZE: Final = 0.1  # of a perturbation: no scheduler clips images this close to 0
_FACTOR, _FLOOR = 1.25, 0.01  # of the deviation of a first-order solver, and for rounding
_NORMALS: Final = (torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_)
_FEW_STEPS: Final = 50
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


@dataclass(frozen=True)
class Moments:
    """Moments of x_reversed over data and noise, one value per variance of the data.

    Attributes:
        mean: Mean, in standard deviations of the data.
        std: Standard deviation, as a fraction of that of the exact solver.
        correlation: Correlation with x_0.
    """

    mean: Tensor
    std: Tensor
    correlation: Tensor

    def __sub__(self, other: "Moments") -> "Moments":
        """Return differences."""
        return Moments(
            *(getattr(self, name) - getattr(other, name) for name in self.__match_args__)
        )


def check_exactness(solver: Solver) -> None:
    """Check that a solver samples Gaussian data as a solver of its kind must.

    It is checked from a few inversion steps, the first and the last among them, which takes less
    than a second for S = 250.

    Args:
        solver: A reverse process.

    Raises:
        InputError: It fails, or its samples deviate by more than a first-order solver's would.
    """
    num = solver.num_steps
    steps = {1, max(num // 4, 1), num}
    if num <= _FEW_STEPS:
        steps |= {num // 2, max(3 * num // 4, 1)}
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
    alphas = [solver.alphas_cumprod[step] for step in solver.timesteps[:num]]
    alpha_k = solver.alphas_cumprod[solver.timesteps[k]] if k < solver.num_steps else None
    variance, alpha = _VARIANCES, alphas[-1]
    start = (0.0, 1.0) if alpha_k is None else (float(alpha_k**0.5), float((1 - alpha_k) ** 0.5))
    x, is_random = _perturb(solver, k, num)
    mean, slopes = x[0] - _MEAN, (x[1:] - x[0]) / _SIZE
    total = alpha * variance + 1 - alpha
    gain, rest = (variance / total).sqrt(), torch.zeros_like(variance)
    references = [_first_order(alphas, None)]
    if is_random:
        gain, rest = variance * alpha.sqrt() / total, variance * (1 - alpha) / total
        references = [_first_order(alphas, name) for name in ("small", "large")]
    scale = (gain**2 * (start[0] ** 2 * variance + start[1] ** 2) + rest).sqrt()

    def moments(mean: Tensor, slope: Tensor, square: Tensor) -> Moments:
        std = (slope**2 * variance + square).sqrt()
        return Moments(
            mean / variance.sqrt(), std / scale, slope * variance.sqrt() / std.clamp(min=1e-12)
        )

    def linear(gain: Tensor, rest: Tensor) -> Moments:
        offset = gain * (start[0] - alpha.sqrt()) * _MEAN
        return moments(offset, gain * start[0], (gain * start[1]) ** 2 + rest)

    found = moments(mean, slopes[0], (slopes[1:] ** 2).sum(0))
    exact = linear(gain, rest)
    deviations = [linear(*reference) - exact for reference in references]
    allowed = Moments(
        *(
            _FACTOR * torch.stack([getattr(d, name).abs() for d in deviations]).amax(0) + _FLOOR
            for name in Moments.__match_args__
        )
    )
    return found, exact, allowed


def _check_step(solver: Solver, k: int) -> None:
    kind = type(solver.scheduler).__name__
    try:
        found, exact, allowed = measure(solver, k)
    except InputError:
        raise
    except Exception as error:  # of schedulers, which may be the user's own
        raise InputError(
            f"scheduler: {kind} fails from step {k} of {solver.num_steps}:"
            f" {type(error).__name__}: {one_line(error)[:150]}; give another scheduler"
        ) from error
    deviations = found - exact
    for name, text in _NAMES.items():
        values, limits = getattr(deviations, name), getattr(allowed, name)
        wrong = ~(values.abs() <= limits)  # so that NaN is wrong
        if wrong.any():
            worst = int((values.abs() / limits).nan_to_num(torch.inf).argmax())
            raise InputError(
                f"scheduler: {kind} is wrong for this model: on Gaussian data, from step {k} of"
                f" {solver.num_steps}, {text} is {float(getattr(found, name)[worst]):.3g} where"
                f" {float(getattr(exact, name)[worst]):.3g} is exact and"
                f" {float(limits[worst]):.2g} more or less is allowed; give another scheduler or"
                " num_steps"
            )


_NAMES: Final[Mapping[str, str]] = {
    "std": "the relative standard deviation",
    "correlation": "the correlation with x_0",
    "mean": "the mean in standard deviations",
}


class _Perturbation(TorchFunctionMode):
    """Replaces each draw of normal numbers by a perturbation of one row."""

    def __init__(self, kind: str, rows: int) -> None:
        super().__init__()
        self._kind = kind
        self._rows = rows
        self.draws = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function; replace what it draws."""
        result = func(*args, **(kwargs or {}))
        if func not in _NORMALS:
            return result
        if not (kwargs or {}).get("generator"):
            raise InputError(
                f"scheduler: {self._kind} draws noise without the generator that it is given, so"
                " samples would not depend on the seed alone; give another scheduler"
            )
        row = 2 + self.draws
        self.draws += 1
        if row >= self._rows:
            raise InputError(
                f"scheduler: {self._kind} draws noise more than {_MAX_DRAWS} times per step; give"
                " another scheduler"
            )
        result.zero_()[..., row, :] = _SIZE
        return result


def _perturb(solver: Solver, k: int, num: int) -> tuple[Tensor, bool]:
    """Run a solver on the mean of the data, and with each of its inputs perturbed.

    Returns:
        Samples, one row for the mean, x_0, the noise of x_k and each random number, one column
        per variance; and whether the solver draws random numbers.
    """
    learned = solver.scheduler.config.get("variance_type")
    prediction = solver.scheduler.config.get("prediction_type", "epsilon")
    before = dict(zip(solver.timesteps[1:], solver.timesteps, strict=False))

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        step = int(timesteps[0])
        alpha = solver.alphas_cumprod[step]
        gain = _VARIANCES * alpha.sqrt() / (alpha * _VARIANCES + 1 - alpha)
        x_0 = _MEAN + gain * (x - alpha.sqrt() * _MEAN)
        # E[eta | x_t], written so that it holds without noise too
        eta = (1 - alpha).sqrt() / (alpha * _VARIANCES + 1 - alpha) * (x - alpha.sqrt() * _MEAN)
        output = {"sample": x_0, "v_prediction": alpha.sqrt() * eta - (1 - alpha).sqrt() * x_0}
        output = output.get(prediction, eta)
        if learned not in ("learned", "learned_range"):
            return output
        previous = solver.alphas_cumprod[before[step]] if step in before else alpha.new_ones(())
        beta = 1 - alpha / previous
        low = ((1 - previous) / (1 - alpha) * beta).clamp(min=1e-20)
        rest = _VARIANCES * (1 - alpha) / (alpha * _VARIANCES + 1 - alpha)
        true = low + previous * (beta / (1 - alpha)) ** 2 * rest
        if learned == "learned_range":
            true = 2 * (true / low).log() / (beta / low).log() - 1
        return torch.cat((output, true.expand_as(output)), 1)

    rows = 3 + _MAX_DRAWS * num
    x_0 = torch.full((1, 1, rows, len(_VARIANCES)), _MEAN)
    x_0[..., 1, :] += _SIZE
    with _Perturbation(type(solver.scheduler).__name__, rows) as perturbation:
        x = solver.sample(denoise, x_0, [k], [[torch.Generator()]], 1)
    return x[0, 0, 0].double(), perturbation.draws > 1


def _first_order(alphas: Sequence[Tensor], noise: str | None) -> tuple[Tensor, Tensor]:
    """Return what a first-order solver multiplies x_t by, and the variance that it adds.

    Args:
        alphas: Cumulative products of alpha at the steps, ascending.
        noise: None for DDIM; `small` or `large` for the ancestral sampler of this variance.
    """
    gain, rest = torch.ones_like(_VARIANCES), torch.zeros_like(_VARIANCES)
    one = alphas[0].new_ones(())
    for alpha, previous in zip(reversed(alphas), [*reversed(alphas[:-1]), one], strict=True):
        total = alpha * _VARIANCES + 1 - alpha
        x_0, eta = _VARIANCES * alpha.sqrt() / total, (1 - alpha).sqrt() / total
        if noise is None:
            factor, added = previous.sqrt() * x_0 + (1 - previous).sqrt() * eta, one * 0
        else:
            beta = 1 - alpha / previous
            factor = previous.sqrt() * beta / (1 - alpha) * x_0
            factor = factor + (1 - beta).sqrt() * (1 - previous) / (1 - alpha)
            added = beta * (1 - previous) / (1 - alpha)
            if noise == "large" and previous < 1:
                added = beta
        gain, rest = factor * gain, factor**2 * rest + added
    return gain, rest
