"""A pretrained diffusion model as a sampler of the forward-backward experiment on images."""

import logging
from typing import Any, Final, Literal

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from lit_hier.checkpoints import fingerprint
from lit_hier.diffusion.pretrained import load_pretrained
from lit_hier.diffusion.reverse import Convention, ReverseProcess, learns_variance
from lit_hier.diffusion.store import DamagedSampleError, SampleStore
from lit_hier.errors import InputError
from lit_hier.modules.image_sampler import ImageSampler
from lit_hier.pixels import quantise
from lit_hier.streams import generators

_LOG: Final = logging.getLogger("lit_hier")


class DDPMSampler(ImageSampler):
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
        samples: A folder in which to keep every batch as it is made (`lit_hier.diffusion.store`);
            what an earlier run of the same kind has kept there is read back, not made again.

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
        samples: str | None = None,
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
        super().__init__(steps, num_steps, seed)
        self.process = process
        self.batch_size = batch_size
        self.channels_last = channels_last
        self.model = model.requires_grad_(False)
        self.samples = samples
        self._store: SampleStore | None = None
        if samples is not None:
            settings = (scheduler or own).config.items()
            self._decided_by = {
                "model": fingerprint(model),
                "scheduler": type(scheduler or own).__name__,
                **{f"scheduler.{key}": value for key, value in settings if key[0] != "_"},
                "convention": convention,
                "seed": seed,
                "batch_size": batch_size,
                "channels_last": channels_last,
            }
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)

    def setup(self, stage: str) -> None:
        """Open the folder of samples.

        Raises:
            InputError: It has samples of another run.
        """
        if self.samples is not None:
            precision = self.trainer.precision
            decided_by = {**self._decided_by, "precision": precision}
            self._store = SampleStore.create(self.samples, self.steps, self.num_steps, decided_by)

    def num_evaluations(self, index: Tensor) -> int:
        """Count one for each image and each step that the model is told; none for kept batches."""
        if self._store is not None and self._store.finished(index):
            return 0
        return len(index) * sum(map(self.process.num_evaluations, self.steps))

    def turn_round(self, x_start: Tensor, index: Tensor, label: Tensor) -> Tensor:
        """Noise a batch to each inversion step and denoise it, or read back what was kept.

        Raises:
            InputError: The images have other channels than the model, or samples were kept of
                others.
        """
        if x_start.shape[1] != self.model.config.in_channels:
            raise InputError(
                f"data: images have {x_start.shape[1]} channels, but the model takes"
                f" {self.model.config.in_channels}"
            )
        if self._store is not None and self._store.finished(index):
            try:
                return self._store.load_of(x_start, index).to(x_start)
            except DamagedSampleError as error:
                _LOG.warning("%s; this batch is made anew", error)
        own = [generators(self.seed, index, step) for step in self.steps]
        x_reversed = quantise(
            self.process.turn_round(
                self._denoise, x_start, self.steps, own, self.batch_size, self.track, self.advance
            )
        )
        if self._store is not None:
            self._store.save(index, label, x_start, x_reversed)
        return x_reversed

    def _denoise(self, x: Tensor, told: int) -> Tensor:
        x = x.to(self.model.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
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
