"""A pretrained diffusion model as a sampler of the forward-backward experiment on images."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from lit_hier.diffusion.pictures import DamagedSampleError, Images
from lit_hier.diffusion.reverse import Convention, ReverseProcess, learns_variance
from lit_hier.diffusion.store import SampleStore
from lit_hier.errors import InputError
from lit_hier.io.checkpoints import fingerprint
from lit_hier.io.pixels import quantise
from lit_hier.modules.image_sampler import ImageSampler
from lit_hier.streams import generators

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from filelock import BaseFileLock

_LOG: Final = logging.getLogger("lit_hier")


class DDPMSampler(ImageSampler):
    """Turns images round with a pretrained denoising diffusion model (Section 2.2, Fig. 2).

    All inversion times of a batch are made together. An image's result depends on
    (seed, sample index, inversion step) only. The model runs in the trainer's precision; images
    and scheduler stay in float32.

    Args:
        pretrained: An ADM checkpoint (`.pt`), a diffusers pipeline folder, or a name on the hub.
        times: Inversion times, ascending, as `unit` says.
        unit: Whether times are respaced steps, 0 to `num_steps`, or fractions of them, 0 to 1.
        num_steps: Respaced steps of the reverse process.
        convention: Which steps the model is told, see `lit_hier.diffusion.reverse`.
        scheduler: A diffusers scheduler, see `ReverseProcess`; the exact ancestral sampler of the
            schedule that the model was trained with, if left out.
        batch_size: The most images that the model is given at once: so many every time, but for
            the last images of a batch of data; `eval_batch_size` should not be smaller.
        channels_last: Whether the model keeps its channels together in memory.
        compile: Whether torch compiles the model first, which takes minutes and needs a compiler:
            for long runs on a GPU.
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
        compile: bool = False,
        seed: int = 0,
        samples: str | None = None,
    ) -> None:
        from lit_hier.diffusion.pretrained import load_pretrained  # diffusers takes seconds

        model, trained = load_pretrained(pretrained)
        scheduler = scheduler or _ancestral(trained)
        process = ReverseProcess(scheduler, num_steps, convention)
        if not times or not all(map(math.isfinite, times)):
            raise InputError(f"times is {times}; give one or more finite inversion times")
        if unit == "step" and any(time != round(time) for time in times):
            raise InputError("times: inversion steps are whole numbers; or give unit: fraction")
        steps = [round(time * num_steps if unit == "fraction" else time) for time in times]
        process.check(steps)
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give at least 1")
        _check_channels(model, scheduler)
        super().__init__(steps, num_steps, seed)
        self.process = process
        self.batch_size = batch_size
        self.channels_last = channels_last
        self.model = model.requires_grad_(False)
        self.samples = samples
        self._store: SampleStore | None = None
        self._lock: BaseFileLock | None = None
        if samples is not None:
            self._decided_by = {
                "model": fingerprint(model),
                "scheduler": type(scheduler).__name__,
                **{f"scheduler.{k}": v for k, v in scheduler.config.items() if k[0] != "_"},
                "convention": convention,
                "seed": seed,
                "batch_size": batch_size,
                "channels_last": channels_last,
                "compile": compile,
            }
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if compile:
            self.model.compile()

    def setup(self, stage: str) -> None:
        """Open the folder of samples.

        Raises:
            InputError: It has samples of another run, another run is filling it, or it cannot be
                written.
        """
        if self.samples is not None:
            decided_by = {
                **self._decided_by,
                "precision": self.trainer.precision,
                "device": self.trainer.strategy.root_device.type,
            }
            if self.trainer.is_global_zero:
                self._lock = SampleStore.lock(self.samples)
            self._store = SampleStore.create(self.samples, self.steps, self.num_steps, decided_by)

    def teardown(self, stage: str) -> None:
        """Release the folder of samples."""
        if self._lock is not None:
            self._lock.release(force=True)
            self._lock = None

    def num_evaluations(self, index: Tensor) -> int:
        """Count one for each image and each step that the model is told; none for kept batches."""
        if self._store is not None and self._store.finished(index):
            return 0
        return len(index) * sum(map(self.process.num_evaluations, self.steps))

    def sample(self, images: Images) -> Tensor:
        """Noise a batch to each inversion step and denoise it, or read back what was kept.

        Raises:
            InputError: The model does not take such images, it gives no finite numbers, or samples
                were kept of other images.
        """
        x_start = images.x_start
        _check_images(self.model, x_start)
        if self._store is not None and self._store.finished(images.planned):
            try:
                return self._store.load(images).to(x_start)
            except DamagedSampleError as error:
                _LOG.warning("%s; this batch is made anew", error)
        own = [generators(self.seed, images.index, step) for step in self.steps]
        x = self.process.sample(
            self._denoise, x_start, self.steps, own, self.batch_size, self.advance
        )
        remedy = "take another trainer.precision, or other weights"
        self.check_finite(x, images.index, "pretrained: the model", remedy)
        x_reversed = quantise(x)
        if self._store is not None:
            self._store.save(images, x_reversed)
        return x_reversed

    def _denoise(self, x: Tensor, told: Tensor) -> Tensor:
        x = x.to(self.model.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        output: Tensor = self.model(x, told).sample
        return output


def _ancestral(trained: Any) -> Any:
    """Give the ancestral sampler of the schedule that a model was trained with."""
    from diffusers import DDPMScheduler

    if isinstance(trained, DDPMScheduler) or "beta_schedule" not in trained.config:
        return trained
    return DDPMScheduler.from_config(trained.config)


def _check_channels(model: Any, scheduler: Any) -> None:
    """Refuse a model that gives a variance where none is taken, or none where one is needed."""
    given, images = model.config.out_channels, model.config.in_channels
    kind = scheduler.config.get("variance_type")
    if learns_variance(scheduler):
        fits = [2 * images]
    elif kind is None:  # a scheduler that passes a variance over
        fits = [images, 2 * images]
    else:
        fits = [images]
    if given not in fits:
        remedy = "learned_range" if given == 2 * images else "fixed_small"
        raise InputError(
            f"scheduler: variance_type={kind} needs a model with {fits[-1]} output channels, this"
            f" one has {given}; take {remedy}"
        )


def _check_images(model: Any, x: Tensor) -> None:
    """Refuse images that do not go through a model."""
    channels, factor = model.config.in_channels, 2 ** (len(model.config.block_out_channels) - 1)
    if x.shape[1] != channels:
        raise InputError(
            f"data: images have {x.shape[1]} channels, but the model takes {channels}"
        )
    if any(side % factor for side in x.shape[2:]):
        raise InputError(
            f"data: images have {x.shape[2]} x {x.shape[3]} pixels, but the model halves them"
            f" {factor.bit_length() - 1} times; give a size that is a multiple of {factor}"
        )
