r"""Turning images round with a diffusers model: noise to a step, then the reverse process back.

The T steps that a model was trained on are respaced to S, at :math:`\tau_j = \mathrm{round}(j (T -
1) / (S - 1))`. Inversion step k leaves an image as it is for k = 0 and is pure noise for k = S; in
between the image is noised to

.. math:: x_k = \sqrt{\bar\alpha_{\tau_k}} x_0 + \sqrt{1 - \bar\alpha_{\tau_k}} \, \eta

Then, by name:

- `aligned`: the model is told the steps k, k - 1, ..., 0: each at its own signal-to-noise ratio.
- `released`: it is told k - 1, ..., 0, as the published code does.

For k = S both tell S - 1, ..., 0.

Source: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models" (2021), for the
respacing; Section 2.2 of the paper for the experiment.
"""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor

from lit_hier.errors import InputError

_UNFIT: Final = (
    "does not go down the steps one by one, from images noised as alpha_t says; take one such as"
    " DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler"
)

Convention = Literal["aligned", "released"]
Denoise = Callable[[Tensor, Tensor], Tensor]
"""Takes x_t, (N, C, H, W), and the step of training that each is told, (N,); gives the output."""


class ReverseProcess:
    """A diffusers scheduler, set to S respaced steps with tables in float64.

    Args:
        scheduler: A diffusers scheduler of one model evaluation per step and of images noised as
            above: DDPM, DDIM, DPM-Solver, DEIS, UniPC and the like. It is copied. One that takes a
            list of steps gets the respaced ones, another chooses S by its own spacing.
        num_steps: S.
        convention: Where the model begins, see above.

    Attributes:
        scheduler: The copy, set to them.
        timesteps: Steps of training, ascending, S of them.
        alphas_cumprod: Of all T steps, float64.

    Raises:
        InputError: S is out of range, or the scheduler is of another kind.
    """

    def __init__(
        self, scheduler: Any, num_steps: int = 250, convention: Convention = "aligned"
    ) -> None:
        kind = type(scheduler).__name__
        if not _fits(scheduler):
            raise InputError(f"scheduler: {kind} {_UNFIT}")
        num_train = int(scheduler.config.num_train_timesteps)
        if not 2 <= num_steps <= num_train:
            raise InputError(f"num_steps is {num_steps}; give 2 to {num_train}")
        if convention not in ("aligned", "released"):
            raise InputError(f"convention is {convention!r}; give aligned or released")
        self.convention = convention
        self.num_steps = num_steps
        self.scheduler = copy.deepcopy(scheduler)
        if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
            steps = [round(j * (num_train - 1) / (num_steps - 1)) for j in range(num_steps)]
            self.scheduler.set_timesteps(timesteps=steps[::-1])
        else:
            self.scheduler.set_timesteps(num_steps)
        self.timesteps = [int(step) for step in self.scheduler.timesteps.flip(0)]
        ascending = sorted(set(self.timesteps))
        if self.timesteps != ascending or len(ascending) != num_steps:
            raise InputError(f"scheduler: {kind} {_UNFIT}")
        self.alphas_cumprod = torch.cumprod(1 - _betas(self.scheduler), 0)
        rest = self.alphas_cumprod
        if rest.shape != (num_train,) or not ((rest >= 0) & (rest <= 1)).all():
            raise InputError(
                f"scheduler: the betas of this {kind} are no noise schedule of {num_train} steps;"
                " give another"
            )
        self.scheduler.alphas_cumprod = self.alphas_cumprod
        if hasattr(self.scheduler, "one"):
            self.scheduler.one = torch.ones((), dtype=torch.float64)

    def check(self, steps: Sequence[int]) -> None:
        """Refuse inversion steps that there are not.

        Raises:
            InputError: One is out of range, or they do not ascend.
        """
        for k in steps:
            if not 0 <= k <= self.num_steps:
                raise InputError(f"times: step {k} is out of range; give 0 to {self.num_steps}")
        if list(steps) != sorted(set(steps)):
            raise InputError("times: inversion steps must ascend, each given once")

    def num_evaluations(self, k: int) -> int:
        """Count the model's evaluations for one image turned round at step k."""
        if k in (0, self.num_steps) or self.convention == "released":
            return k
        return k + 1

    def noise(self, x_0: Tensor, k: int, eta: Tensor) -> Tensor:
        """Noise images to an inversion step.

        Args:
            x_0: float32, shape (B, C, H, W).
            k: Inversion step.
            eta: Standard normal numbers, same shape.
        """
        if k == 0:
            return x_0
        if k == self.num_steps:
            return eta
        alpha = self.alphas_cumprod[self.timesteps[k]]
        x_k: Tensor = float(alpha.sqrt()) * x_0 + float((1 - alpha).sqrt()) * eta
        return x_k

    def sample(
        self,
        denoise: Denoise,
        x_0: Tensor,
        steps: Sequence[int],
        generators: Sequence[list[torch.Generator]],
        batch_size: int,
        advance: Callable[[int], object] = lambda num: None,
    ) -> Tensor:
        """Turn images round at several inversion steps.

        The model sees images of all inversion steps together, always those next that have the most
        steps before them. So it is given `batch_size` of them every time but the last, unless
        there are so few that they run out before the longest reverse process has ended.

        Args:
            denoise: The model.
            x_0: Images, float32, shape (B, C, H, W).
            steps: Inversion steps, ascending.
            generators: For each inversion step one generator per image: it makes the noise first
                and then all that the scheduler adds.
            batch_size: The most images that the model is given at once.
            advance: Takes how many images the model was given, each time.

        Returns:
            Shape (steps, B, C, H, W), float32; not clipped. NaN for images of which the model gave
            a number that is not finite.
        """
        self.check(steps)
        size = math.gcd(len(x_0), batch_size)
        packs = [
            _Pack(self, part, k, own[first : first + size])
            for k, own in zip(steps, generators, strict=True)
            for first, part in zip(range(0, len(x_0), size), x_0.split(size), strict=True)
        ]
        while under_way := [pack for pack in packs if pack.left]:
            under_way.sort(key=lambda pack: pack.left, reverse=True)
            chosen = under_way[: batch_size // size]
            told = torch.tensor([self.timesteps[pack.left - 1] for pack in chosen])
            output = denoise(
                torch.cat([pack.x for pack in chosen]), told.repeat_interleave(size).to(x_0.device)
            )
            for pack, part in zip(chosen, output.float().split(size), strict=True):
                pack.step(part)
            advance(len(output))
        return torch.cat([pack.x for pack in packs]).view(len(steps), *x_0.shape)


class _Pack:
    """Images that go back together from one inversion step; schedulers remember earlier steps.

    Attributes:
        left: Steps that the model has still to be told; the next is `timesteps[left - 1]`.
    """

    def __init__(
        self, process: ReverseProcess, x_0: Tensor, k: int, generators: list[torch.Generator]
    ) -> None:
        self.x = process.noise(x_0, k, _normal(x_0, generators))
        self.left = process.num_evaluations(k)
        self._timesteps = process.timesteps
        self._generators = generators
        self._scheduler = copy.deepcopy(process.scheduler)
        if self.left and hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(process.num_steps - self.left)

    def step(self, output: Tensor) -> None:
        """Go one step back, given what the model says."""
        # A scheduler may clip what is infinite, and hide it.
        lost = ~output.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
        self.left -= 1
        told = self._timesteps[self.left]
        stepped = _step(self._scheduler, output, told, self.x, self._generators)
        self.x = stepped.masked_fill(lost, torch.nan)


def _fits(scheduler: Any) -> bool:
    """Say whether a scheduler is of the kind that `ReverseProcess` is for."""
    if not hasattr(scheduler, "step"):
        return False
    step = inspect.signature(scheduler.step).parameters
    extra = [
        name for name, p in step.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    return (
        scheduler.config.get("beta_schedule") is not None
        and float(getattr(scheduler, "init_noise_sigma", 1)) == 1
        and set(extra) == {"model_output", "timestep", "sample"}
        and "prev_timestep" not in step
    )


def _betas(scheduler: Any) -> Tensor:
    """Give the variances of the noise that training added, float64; linear ones exactly."""
    config = scheduler.config
    plain = not config.get("rescale_betas_zero_snr", False)
    if config.beta_schedule == "linear" and config.get("trained_betas") is None and plain:
        ends = config.beta_start, config.beta_end
        return torch.linspace(*ends, config.num_train_timesteps, dtype=torch.float64)
    betas: Tensor = scheduler.betas.double()
    return betas


def _normal(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draw standard normal numbers, each image's from its own generator."""
    draws = [torch.randn(like.shape[1:], generator=own, dtype=like.dtype) for own in generators]
    return torch.stack(draws).to(like.device)


def _step(
    scheduler: Any, output: Tensor, told: int, x: Tensor, generators: list[torch.Generator]
) -> Tensor:
    """Take one step back with the scheduler's own rule."""
    random = "generator" in inspect.signature(scheduler.step).parameters
    arguments = {"generator": generators} if random else {}
    if output.shape[1] > x.shape[1] and not learns_variance(scheduler):
        output = output[:, : x.shape[1]]
    stepped: Tensor = scheduler.step(output, told, x, **arguments).prev_sample
    return stepped


def learns_variance(scheduler: Any) -> bool:
    """Say whether a scheduler takes the model's second half of channels as the variance."""
    return scheduler.config.get("variance_type") in ("learned", "learned_range")
