"""Forward-backward on images with a pretrained diffusion model."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lit_hier.diffusion.adm_flags import ADM_SUFFIXES, ADMFlags
from lit_hier.diffusion.images import DamagedSampleError, ImageBatch
from lit_hier.diffusion.inheritance import inherit
from lit_hier.diffusion.reverse import Convention, ReverseProcess, learns_variance
from lit_hier.diffusion.store import SampleStore
from lit_hier.errors import InputError
from lit_hier.io.atomic import check_writes, checked_writes
from lit_hier.io.pixels import quantise
from lit_hier.modules.image_sampler import ImageSampler
from lit_hier.nn.fingerprint import fingerprint
from lit_hier.streams import generators

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from filelock import BaseFileLock

_LOG: Final = logging.getLogger("lit_hier")
# Of a model of diffusers.
_SETTINGS: Final = ("sample_size", "in_channels", "out_channels", "block_out_channels")


class DDPMSampler(ImageSampler):
    """Samples x_reversed with a pretrained denoising diffusion model (Section 2.2, Fig. 2).

    The inversion times of a batch are computed together. The noise of an image depends on
    (seed, sample index, inversion step) only. The model runs in the trainer's precision; images
    and scheduler stay in float32.

    Args:
        pretrained: An ADM checkpoint (`.pt`), a diffusers pipeline folder, or a name on the hub.
        times: Inversion times, ascending, in the unit given by `unit`.
        unit: `step`, respaced steps from 0 to `num_steps`, or `fraction`, fractions of
            `num_steps` from 0 to 1.
        num_steps: Respaced steps of the reverse process.
        convention: Steps at which the model is evaluated, see `lit_hier.diffusion.reverse`.
        scheduler: A diffusers scheduler, see `ReverseProcess`; by default the ancestral sampler.
            What the model was trained with it takes from the pipeline (`inherit`).
        batch_size: Images per model evaluation; the last evaluation of a batch of data may have
            fewer.
            The data module's `eval_batch_size` should be at least as large.
        channels_last: Whether the model uses the channels-last memory format.
        compile: Whether to compile the model first, which takes minutes and needs a compiler: for
            long runs on a GPU.
        seed: Seed of the noise, 0 to 2^64 - 1.
        samples: A folder in which to save every batch (`lit_hier.diffusion.store`); batches that
            an earlier run with the same settings saved there are read instead of recomputed.
        adm: How the network of an ADM checkpoint was trained, by the flags of guided-diffusion,
            as in `{num_heads: 4, image_size: 64}`; by default as the published unconditional model
            of 256 x 256 pixels. What is assumed is logged.

    Raises:
        InputError: The model cannot be loaded, does not fit the scheduler, or an argument is out
            of range.
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
        adm: ADMFlags | None = None,
    ) -> None:
        from lit_hier.diffusion.pretrained import load_pretrained  # diffusers takes seconds

        model, trained = load_pretrained(pretrained, adm=adm)
        if pretrained.endswith(ADM_SUFFIXES):
            assumed = (adm or ADMFlags()).describe()
            rank_zero_info(f"pretrained: assumed of {pretrained}: {assumed}; see the argument adm")
            self._size_origin = " (adm.image_size; correct it if that is wrong)"
        self._set_up(
            model,
            trained,
            times=times,
            unit=unit,
            num_steps=num_steps,
            convention=convention,
            scheduler=scheduler,
            batch_size=batch_size,
            channels_last=channels_last,
            compile=compile,
            seed=seed,
            samples=samples,
        )

    @classmethod
    def from_pipeline(
        cls, pipeline: Any, times: Sequence[float], scheduler: Any = None, **options: Any
    ) -> DDPMSampler:
        """Build a sampler from a diffusion model in memory.

        The model is used as it is, not copied: without gradients, in evaluation mode.

        Args:
            pipeline: A pipeline of diffusers with a `unet` and a `scheduler`, such as
                `DDPMPipeline(model, scheduler)`; its scheduler is that of the training.
            times: Inversion times, ascending.
            scheduler: See the class.
            **options: Other arguments of the class, except `pretrained` and `adm`.

        Raises:
            InputError: It has no such model, or as for the class.
        """
        model, trained = (getattr(pipeline, name, None) for name in ("unet", "scheduler"))
        if not isinstance(model, nn.Module) or not hasattr(trained, "config"):
            raise InputError(
                f"pipeline: {type(pipeline).__name__} has no unet and scheduler; give a"
                " DDPMPipeline(unet, scheduler) of an unconditional model of pixels"
            )
        missing = [name for name in _SETTINGS if name not in getattr(model, "config", {})]
        if missing or getattr(model, "class_embedding", None) is not None:
            reason = f"has no {missing[0]} in its config" if missing else "is class-conditional"
            raise InputError(
                f"pipeline: {type(model).__name__} {reason}; give an unconditional model of"
                " pixels, such as a UNet2DModel"
            )
        known = inspect.signature(cls._set_up).parameters
        for name in options:
            if name not in known or name in ("model", "trained"):
                raise InputError(f"{name}: from_pipeline has no such argument")
        sampler = cls.__new__(cls)
        sampler._set_up(model.eval(), trained, times=times, scheduler=scheduler, **options)
        return sampler

    def _set_up(
        self,
        model: Any,
        trained: Any,
        times: Sequence[float],
        unit: Literal["step", "fraction"] = "step",
        num_steps: int = 250,
        convention: Convention = "aligned",
        scheduler: Any = None,
        batch_size: int = 32,
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
        samples: str | None = None,
    ) -> None:
        """Initialize with a model and the scheduler that it was trained with."""
        scheduler = inherit(scheduler, trained)
        process = ReverseProcess(scheduler, num_steps, convention)
        if not times or not all(map(math.isfinite, times)):
            raise InputError(f"times is {times}; give one or more finite inversion times")
        if unit == "step" and any(time != round(time) for time in times):
            raise InputError(
                f"times is {times}; inversion steps are whole numbers; for fractions, give unit:"
                " fraction"
            )
        steps = [round(time * num_steps if unit == "fraction" else time) for time in times]
        process.check_steps(steps)
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give at least 1")
        _check_channels(model, scheduler)
        ImageSampler.__init__(self, steps, num_steps, seed)
        self.process = process
        self.batch_size = batch_size
        self.channels_last = channels_last
        self.model = model.requires_grad_(False)
        self.samples = samples
        self._store: SampleStore | None = None
        self._lock: BaseFileLock | None = None
        self._checks = ExitStack()
        if samples is not None:
            self._settings = {
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

    @property
    def image_size(self) -> int | None:
        """Pixels per side of the images that the model was trained on; `None` if unknown."""
        size = self.model.config.sample_size
        return size if isinstance(size, int) else None

    def setup(self, stage: str) -> None:
        """Open the folder of samples; compare the model's size with that of the data.

        Raises:
            InputError: It has samples of another run, another run is filling it, or it cannot be
                written.
        """
        super().setup(stage)
        if self.samples is not None:
            settings = {
                **self._settings,
                "precision": self.trainer.precision,
                "device": self.trainer.strategy.root_device.type,
            }
            self._lock_folder()
            self._store = SampleStore.create(self.samples, self.steps, self.num_steps, settings)

    def _lock_folder(self) -> None:
        """Lock the folder on the first process; on all, write nothing once the lock is lost."""
        assert self.samples is not None
        file = Path(self.samples, ".lock").expanduser()
        problem, held = "", None
        if self.trainer.is_global_zero:
            try:
                self._lock = SampleStore.lock(self.samples)
                held = _identify(file)
            except InputError as error:
                problem = str(error)
        problem, held = self.trainer.strategy.broadcast((problem, held))
        if problem:
            raise InputError(problem)

        def check() -> None:
            # After an exception Lightning calls no `teardown`.
            if not self.trainer.interrupted and _identify(file) != held:
                raise InputError(
                    f"samples: {file} was removed or replaced, so another run may fill the"
                    " folder; run the same command again when no other run uses it"
                )

        self._checks.enter_context(checked_writes(check))

    def teardown(self, stage: str) -> None:
        """Release the folder of samples."""
        self._checks.close()
        if self._lock is not None:
            self._lock.release(force=True)
            self._lock = None

    def num_evaluations(self, index: Tensor) -> int:
        """Return the number of images times model evaluations; 0 for batches that were saved."""
        if not len(index) or (self._store is not None and self._store.finished(index)):
            return 0
        return len(index) * sum(map(self.process.num_evaluations, self.steps))

    def num_written_bytes(self, index: Tensor) -> int:
        """Count the bytes of a batch's saved samples."""
        return 0 if self._store is None else self._store.count_bytes(index)

    def sample(self, images: ImageBatch) -> Tensor:
        """Noise a batch to each inversion step and denoise it, or read its saved samples.

        Args:
            images: The batch.

        Returns:
            Samples of 256 levels, float32, shape (T, B, C, H, W).

        Raises:
            InputError: The model rejects the images or returns non-finite values, or the saved
                samples are of other images.
        """
        x_start = images.x_start
        _check_images(self.model, x_start)
        if self._store is not None and self._store.finished(images.planned):
            try:
                return self._store.load(images).to(x_start.device)
            except DamagedSampleError as error:
                _LOG.warning("%s; recomputing this batch", error)
        streams = [generators(self.seed, images.index, step) for step in self.steps]
        x = self.process.sample(
            self._denoise, x_start, self.steps, streams, self.batch_size, self.advance
        )
        remedy = "choose another trainer.precision, or other weights"
        self.check_finite(x, images.index, "pretrained: the model", remedy)
        x_reversed = quantise(x)
        if self._store is not None:
            check_writes()
            self._store.save(images, x_reversed)
        return x_reversed

    def _denoise(self, x: Tensor, timesteps: Tensor) -> Tensor:
        x = x.to(self.model.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        output: Tensor = self.model(x, timesteps).sample
        return output


def _identify(path: Path) -> int | None:
    """Return a number that another file of the same name does not have; None for no file."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _check_channels(model: Any, scheduler: Any) -> None:
    """Check that the model has the output channels that the scheduler needs."""
    outputs, inputs = model.config.out_channels, model.config.in_channels
    kind = scheduler.config.get("variance_type")
    if learns_variance(scheduler):
        allowed = [2 * inputs]
    elif kind is None:  # a scheduler that ignores a variance
        allowed = [inputs, 2 * inputs]
    else:
        allowed = [inputs]
    if outputs not in allowed:
        remedy = "learned_range" if outputs == 2 * inputs else "fixed_small"
        raise InputError(
            f"scheduler: variance_type={kind} needs a model with {allowed[-1]} output channels,"
            f" this one has {outputs}; give variance_type={remedy}"
        )


def _check_images(model: Any, x: Tensor) -> None:
    """Check that a model accepts the shape of images."""
    channels, factor = model.config.in_channels, 2 ** (len(model.config.block_out_channels) - 1)
    if x.shape[1] != channels:
        raise InputError(
            f"data: images have {x.shape[1]} channels, but the model takes {channels}; give such"
            " images or another model"
        )
    if any(side % factor for side in x.shape[2:]):
        raise InputError(
            f"data: images have {x.shape[2]} x {x.shape[3]} pixels, but the model halves them"
            f" {factor.bit_length() - 1} times; choose a size that is a multiple of {factor}"
        )
