"""A pretrained diffusion model as a sampler of the forward-backward experiment on images."""

from typing import Any, Literal

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from lit_hier.diffusion import ForwardBackward
from lit_hier.diffusion.pretrained import load_pretrained
from lit_hier.diffusion.reverse import Convention, ReverseProcess, learns_variance
from lit_hier.errors import InputError
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.noise import TimeAxis
from lit_hier.pixels import quantise
from lit_hier.streams import generators


class DDPMSampler(ForwardBackwardModule):
    """Turns images round with a pretrained denoising diffusion model (Section 2.2, Fig. 2).

    All inversion times of a batch are made in one reverse sweep. An image's result depends on
    (seed, sample index, inversion step) only. The model runs in the trainer's precision; images
    and scheduler stay in float32.

    Args:
        pretrained: An ADM checkpoint (`.pt`), a diffusers pipeline folder, or a name on the hub.
        times: Inversion times, ascending, as `unit` says.
        unit: Whether times are respaced steps, 0 to `num_steps`, or fractions of them, 0 to 1.
        num_steps: Respaced steps of the reverse process.
        convention: Which steps the model is told, see `lit_hier.diffusion.reverse`.
        scheduler: A diffusers scheduler; the exact ancestral sampler that the model was trained
            for, if left out.
        batch_size: The most images that the model is given at once.
        channels_last: Whether the model keeps its channels together in memory.
        seed: Seed of the noise, 0 to 2^64 - 1.

    Raises:
        InputError: The model cannot be loaded, it does not fit the scheduler, or an argument is
            out of range.
    """

    def __init__(
        self,
        pretrained: str,
        times: list[float],
        unit: Literal["step", "fraction"] = "step",
        num_steps: int = 250,
        convention: Convention = "aligned",
        scheduler: SchedulerMixin | None = None,
        batch_size: int = 32,
        channels_last: bool = False,
        seed: int = 0,
    ) -> None:
        model, own = load_pretrained(pretrained)
        process = ReverseProcess(scheduler or own, num_steps, convention)
        if not times:
            raise InputError("times: the list of inversion times is empty; give at least one")
        if unit == "step" and any(time != round(time) for time in times):
            raise InputError("times: inversion steps are whole numbers; or give unit: fraction")
        steps = [round(time * num_steps if unit == "fraction" else time) for time in times]
        process.check(steps)
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give at least 1")
        _check_channels(model, scheduler or own)
        axis = TimeAxis("ddpm", f"inversion step, of {num_steps}", "k", float(num_steps))
        super().__init__(steps, axis, seed)
        self.steps = steps
        self.process = process
        self.batch_size = batch_size
        self.model = model.requires_grad_(False)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ForwardBackward:
        """Noise a batch to each inversion step and denoise it.

        Args:
            batch: `x`, images in [-1, 1], float32, (B, C, H, W), `label`, (B,), `index`, (B,).
            batch_idx: Unused.

        Raises:
            InputError: The images have other channels than the model.
        """
        x_start, index = batch["x"], batch["index"]
        if x_start.shape[1] != self.model.config.in_channels:
            raise InputError(
                f"data: images have {x_start.shape[1]} channels, but the model takes"
                f" {self.model.config.in_channels}"
            )
        own = [generators(self.seed, index, step) for step in self.steps]
        x_reversed = self.process.turn_round(
            self._denoise, x_start, self.steps, own, self.batch_size, self.track
        )
        return ForwardBackward(
            x_start=x_start,
            x_reversed=quantise(x_reversed),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=batch["label"],
        )

    def _denoise(self, x: Tensor, told: int) -> Tensor:
        output: Tensor = self.model(x, told).sample
        return output


def _check_channels(model: Any, scheduler: Any) -> None:
    """Refuse a model that gives a variance where none is taken, or none where one is needed."""
    given, images = model.config.out_channels, model.config.in_channels
    if learns_variance(scheduler) and given != 2 * images:
        raise InputError(
            f"scheduler: variance_type={scheduler.config.variance_type} needs a model with"
            f" {2 * images} output channels, this one has {given}; take fixed_small"
        )
