r"""Forward-backward on images: noise them to an inversion step, then run the reverse process.

The T training steps of a model are respaced to S steps, :math:`\tau_j = \mathrm{round}(j (T - 1) /
(S - 1))`. Inversion step k = 0 returns the image, k = S starts from pure noise, and any other k
from

.. math:: x_k = \sqrt{\bar\alpha_{\tau_k}} x_0 + \sqrt{1 - \bar\alpha_{\tau_k}} \, \eta

The convention says at which steps the model is evaluated:

- `aligned`: k, k - 1, ..., 0, where the first is the step that x_k was noised to.
- `released`: k - 1, ..., 0, as in the published code.

For k = S both are S - 1, ..., 0.

A multistep solver extrapolates from earlier steps, and grows unstable where a step is much longer
than the one before, as the last of these are in log-SNR. It starts again there.

Source: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models" (2021), for the
respacing; Section 2.2 of the paper for the experiment.
"""

import copy
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lit_hier.diffusion.exactness import check_exactness
from lit_hier.errors import InputError, one_line
from lit_hier.io.devices import upload

_UNFIT: Final = (
    "does not evaluate the model once per step on images noised with alpha_t; use DDPMScheduler,"
    " DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler"
)
_PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")
_MAX_DIFFERENCE: Final = 1e-4  # of alphas_cumprod; above rounding in float32
_MAX_GROWTH: Final = 2  # of a multistep solver's steps in log-SNR, from one to the next

Convention = Literal["aligned", "released"]
Denoise = Callable[[Tensor, Tensor], Tensor]
"""Maps x_t, (N, C, H, W), and training steps, int64, (N,), to the output, (N, C', H, W)."""


class ReverseProcess:
    """A diffusers scheduler, set to S respaced steps with tables in float64.

    Args:
        scheduler: A diffusers scheduler with one model evaluation per step and images noised as
            above, such as DDPM, DDIM, DPM-Solver, DEIS or UniPC. It is copied. If it accepts a
            list of steps, it gets the respaced ones; otherwise it chooses S steps itself.
        num_steps: S, 2 to T.
        convention: `aligned` or `released`, see above.

    Attributes:
        scheduler: The copy, set to S steps.
        timesteps: The S training steps, ascending.
        alphas_cumprod: Cumulative products of alpha at all T steps, float64, shape (T,).
        restarts: Indices of the steps at which the scheduler starts again.

    Raises:
        InputError: An argument is out of range, the scheduler is not of this kind, or it does not
            sample Gaussian data as it must (`lit_hier.diffusion.exactness`).
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
        prediction = scheduler.config.get("prediction_type", "epsilon")
        if prediction not in _PREDICTIONS:
            raise InputError(
                f"scheduler: {kind} has prediction_type={prediction!r}; give one with"
                f" {', '.join(_PREDICTIONS)}"
            )
        self.alphas_cumprod = torch.cumprod(1 - _betas(scheduler), 0)
        rest = self.alphas_cumprod
        if rest.shape != (num_train,) or not ((rest >= 0) & (rest <= 1)).all():
            raise InputError(
                f"scheduler: the betas of this {kind} do not define a noise schedule of"
                f" {num_train} steps; give betas from 0 to 1"
            )
        if (scheduler.alphas_cumprod.double() - rest).abs().max() > _MAX_DIFFERENCE:
            raise InputError(
                f"scheduler: this {kind} changes the noise schedule that its betas define, and"
                " images are noised with the latter; give another scheduler"
            )
        self.scheduler = copy.deepcopy(scheduler)
        try:
            with _no_advice():
                if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
                    steps = [
                        round(j * (num_train - 1) / (num_steps - 1)) for j in range(num_steps)
                    ]
                    self.scheduler.set_timesteps(timesteps=steps[::-1])
                else:
                    self.scheduler.set_timesteps(num_steps)
        except Exception as error:  # of schedulers, which may be the user's own
            raise InputError(
                f"scheduler: {kind} does not take {num_steps} steps: {one_line(error)[:150]};"
                " correct its arguments"
            ) from error
        self.timesteps = [int(step) for step in self.scheduler.timesteps.flip(0)]
        ascending = sorted(set(self.timesteps))
        if self.timesteps != ascending or len(ascending) != num_steps:
            raise InputError(f"scheduler: {kind} {_UNFIT}")
        _use_float64(self.scheduler, self.alphas_cumprod)
        log_snr = torch.logit(self.alphas_cumprod[self.timesteps])
        lengths = (log_snr[:-1] - log_snr[1:]).tolist()  # from each step to the one below
        self.restarts = frozenset(
            j + 1
            for j, (now, before) in enumerate(pairwise(lengths))
            if now > before * _MAX_GROWTH
        )
        check_exactness(self)

    def check_steps(self, steps: Sequence[int]) -> None:
        """Check inversion steps.

        Raises:
            InputError: One is out of range, or they do not ascend.
        """
        for k in steps:
            if not 0 <= k <= self.num_steps:
                raise InputError(f"times: step {k} is out of range; give 0 to {self.num_steps}")
        if list(steps) != sorted(set(steps)):
            raise InputError("times: inversion steps must ascend, each given once")

    def num_evaluations(self, k: int) -> int:
        """Return the number of model evaluations for one image at inversion step k."""
        if k in (0, self.num_steps) or self.convention == "released":
            return k
        return k + 1

    def noise(self, x_0: Tensor, k: int, eta: Tensor) -> Tensor:
        """Return images noised to an inversion step, x_k.

        Args:
            x_0: Images, float32, shape (B, C, H, W).
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
        """Run forward-backward at several inversion steps.

        The model is evaluated on images of all inversion steps together, those with the most steps
        left first. So all its batches but the last have `batch_size` images, unless there are too
        few images to last until the longest reverse process ends.

        Noise is drawn on the CPU. With images on a GPU, nothing here waits for it: the noise of a
        step is drawn while the GPU still evaluates the model.

        Args:
            denoise: The model.
            x_0: Images, float32, shape (B, C, H, W).
            steps: Inversion steps, ascending.
            generators: For each inversion step one generator per image, for the noise x_k first
                and then for the scheduler's noise.
            batch_size: Maximum number of images per model evaluation.
            advance: Called after each model evaluation with its number of images.

        Returns:
            Samples x_reversed, shape (steps, B, C, H, W), float32, not clipped; NaN for images for
            which the model returned a non-finite value.

        Raises:
            InputError: An inversion step is out of range, or they do not ascend.
        """
        self.check_steps(steps)
        size = math.gcd(len(x_0), batch_size)
        chunks = [
            _Chunk(self, part, k, streams[first : first + size])
            for k, streams in zip(steps, generators, strict=True)
            for first, part in zip(range(0, len(x_0), size), x_0.split(size), strict=True)
        ]
        while unfinished := [chunk for chunk in chunks if chunk.left]:
            unfinished.sort(key=lambda chunk: chunk.left, reverse=True)
            chosen = unfinished[: batch_size // size]
            timesteps = torch.tensor([self.timesteps[chunk.left - 1] for chunk in chosen])
            output = denoise(
                torch.cat([chunk.x for chunk in chosen]),
                upload(timesteps.repeat_interleave(size), x_0.device),
            )
            for chunk, part in zip(chosen, output.float().split(size), strict=True):
                chunk.step(part)
            advance(len(output))
        return torch.cat([chunk.x for chunk in chunks]).view(len(steps), *x_0.shape)


class _Chunk:
    """Images with one inversion step and one scheduler, as schedulers remember earlier steps.

    Attributes:
        x: The images at their present step, shape (B, C, H, W).
        left: Number of model evaluations left; the next is at `timesteps[left - 1]`.
    """

    def __init__(
        self, process: ReverseProcess, x_0: Tensor, k: int, generators: list[torch.Generator]
    ) -> None:
        self.x = process.noise(x_0, k, _normal(x_0, generators))
        self.left = process.num_evaluations(k)
        self._generators = generators
        self._process = process
        self._start()

    def _start(self) -> None:
        """Start a scheduler at the present step."""
        self._scheduler = copy.deepcopy(self._process.scheduler)
        if self.left and hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(self._process.num_steps - self.left)

    def step(self, output: Tensor) -> None:
        """Take one reverse step with the model's output."""
        # A scheduler may clip infinite values and so hide them.
        lost = ~output.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
        if self.left - 1 in self._process.restarts:
            self._start()
        self.left -= 1
        timestep = self._process.timesteps[self.left]
        stepped = _step(self._scheduler, output, timestep, self.x, self._generators)
        self.x = stepped.masked_fill(lost, torch.nan)


def _fits(scheduler: Any) -> bool:
    """Return whether a scheduler is of the kind that `ReverseProcess` supports."""
    if not hasattr(scheduler, "step"):
        return False
    step = inspect.signature(scheduler.step).parameters
    extra = [
        name for name, p in step.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    return (
        scheduler.config.get("beta_schedule") is not None
        and isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor)
        and float(getattr(scheduler, "init_noise_sigma", 1)) == 1
        and set(extra) == {"model_output", "timestep", "sample"}
        and "prev_timestep" not in step
    )


def _betas(scheduler: Any) -> Tensor:
    """Return the noise schedule beta of training, float64, shape (T,); exact if linear."""
    config = scheduler.config
    plain = not config.get("rescale_betas_zero_snr", False)
    if config.beta_schedule == "linear" and config.get("trained_betas") is None and plain:
        ends = config.beta_start, config.beta_end
        return torch.linspace(*ends, config.num_train_timesteps, dtype=torch.float64)
    betas: Tensor = scheduler.betas.double()
    return betas


@contextmanager
def _no_advice() -> Iterator[None]:
    """Silence what diffusers says about steps that a scheduler was not made for: it is checked."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _use_float64(scheduler: Any, alphas_cumprod: Tensor) -> None:
    """Give a scheduler its cumulative products of alpha in float64, and single values of them."""
    given = scheduler.alphas_cumprod
    for name, value in list(vars(scheduler).items()):
        if isinstance(value, Tensor) and value.is_floating_point() and not value.dim():
            places = (given == value).nonzero()
            exact = alphas_cumprod[places[0, 0]] if len(places) else value.double()
            setattr(scheduler, name, exact)
    scheduler.alphas_cumprod = alphas_cumprod


def _normal(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draw standard normal numbers, each image's from its own generator."""
    draws = [torch.randn(like.shape[1:], generator=g, dtype=like.dtype) for g in generators]
    return upload(torch.stack(draws), like.device)


def _step(
    scheduler: Any, output: Tensor, timestep: int, x: Tensor, generators: list[torch.Generator]
) -> Tensor:
    """Return the scheduler's sample of the previous step."""
    random = "generator" in inspect.signature(scheduler.step).parameters
    arguments = {"generator": generators} if random else {}
    if output.shape[1] > x.shape[1] and not learns_variance(scheduler):
        output = output[:, : x.shape[1]]
    with nullcontext() if x.device.type == "cpu" else _Uploads():
        stepped: Tensor = scheduler.step(output, timestep, x, **arguments).prev_sample
    return stepped


class _Uploads(TorchFunctionMode):
    """Lets a scheduler copy what it draws or tabulates on the CPU without waiting for the device.

    Values are the same; a matrix without an inverse gives NaN, which the caller reports.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return upload(func(*args, **kwargs), device)
        if func is torch.Tensor.to and args[0].device.type == "cpu":
            # The target is a device, its name or a tensor; a data type is none of these.
            for target in (*args[1:], *kwargs.values()):
                if isinstance(target, torch.device | str | Tensor):
                    if isinstance(target, Tensor):
                        target = target.device
                    device = torch.device(target)
                    return func(upload(args[0], device), *args[1:], **kwargs)
        if func is torch.linalg.solve:  # which waits to see whether it succeeded
            return torch.linalg.solve_ex(*args, **kwargs).result
        return func(*args, **kwargs)


def learns_variance(scheduler: Any) -> bool:
    """Return whether a scheduler uses the second half of the output channels as the variance."""
    return scheduler.config.get("variance_type") in ("learned", "learned_range")
