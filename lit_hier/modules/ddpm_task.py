"""Training a small denoising diffusion model."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lit_hier.diffusion.pipelines import check_target, check_target_writable, write_pipeline
from lit_hier.errors import InputError
from lit_hier.io.devices import upload
from lit_hier.modules.task import Task
from lit_hier.streams import Purpose, generators

_GROUPS: Final = 8


class DDPMTask(Task):
    r"""Trains a U-Net to predict the noise in images.

    .. math:: E \, \lVert \eta - \hat\eta(x_t, t) \rVert^2, \qquad
       x_t = \sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \eta

    Logs `train/loss` and `val/loss`, mean squared errors per pixel; `val/loss` is computed with
    the averaged weights and the same noise in every epoch. When training ends, the averaged
    weights are written as a diffusers pipeline folder, for `DDPMSampler`.

    Source: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (2020).

    Args:
        size: Pixels per side, a multiple of 2^(levels - 1).
        save_to: Folder of the pipeline; an existing pipeline is replaced.
        channels: Channels of an image.
        widths: Channels of each level, multiples of 8; the last level has self-attention.
        num_train_timesteps: T.
        ema_decay: Decay of the exponential moving average of the weights, in [0, 1).
        seed: Seed of the noise, at least 0; a sample's noise depends on (seed, sample, epoch)
            only.
        optimizer: Any optimizer of torch, AdamW by default.

    Raises:
        InputError: An argument is out of range, or `save_to` holds something
            other than a pipeline.
    """

    def __init__(
        self,
        size: int,
        save_to: str,
        channels: int = 1,
        widths: Sequence[int] = (32, 64),
        num_train_timesteps: int = 1000,
        ema_decay: float = 0.995,
        seed: int = 0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
    ) -> None:
        from diffusers import DDPMScheduler, UNet2DModel  # takes seconds

        super().__init__(optimizer)
        if not widths or any(width < _GROUPS or width % _GROUPS for width in widths):
            raise InputError(f"widths is {list(widths)}; give multiples of {_GROUPS}")
        factor = 2 ** (len(widths) - 1)
        if size is None:  # the command line takes it from the data module
            raise InputError("size is not given; give the data module the pixels per side")
        if size < factor or size % factor:
            raise InputError(f"size is {size}; give a multiple of 2^(levels - 1) = {factor}")
        if seed < 0:
            raise InputError(f"seed is {seed}; give at least 0")
        check_target(save_to, "save_to")
        self.save_hyperparameters(ignore=["optimizer"])
        lower = ["DownBlock2D"] * (len(widths) - 1)
        self.model = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            down_block_types=(*lower, "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", *(["UpBlock2D"] * len(lower))),
            norm_num_groups=_GROUPS,
            attention_head_dim=_GROUPS,
        )
        self.average_weights(self.model, ema_decay)
        self.scheduler = DDPMScheduler(num_train_timesteps)
        self.save_to = save_to
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Check, before training, that the pipeline can be written after it.

        Raises:
            InputError: It cannot; on all processes.
        """
        problem = ""
        if stage == "fit" and self.trainer.is_global_zero:
            try:
                check_target(self.save_to, "save_to")  # again, as the logger has written by now
                check_target_writable(self.save_to)
            except InputError as error:
                problem = str(error)
            except OSError as error:
                problem = (
                    f"save_to: cannot write {self.save_to}: {error.strerror}; give another folder"
                )
        if problem := self.trainer.strategy.broadcast(problem):
            raise InputError(problem)

    def _loss(self, model: Any, batch: dict[str, Tensor], epoch: int, purpose: Purpose) -> Tensor:
        """Return the squared error of the noise, mean over pixels, summed over the batch."""
        x_0, num_timesteps = batch["x"], self.scheduler.config.num_train_timesteps
        if not len(x_0):
            return _zero_loss(model)
        streams = generators(self.seed, batch["index"], epoch, purpose)
        t = torch.stack([torch.randint(num_timesteps, (), generator=g) for g in streams])
        eta = torch.stack([torch.randn(x_0.shape[1:], generator=g) for g in streams])
        t, eta = upload(t, x_0.device), upload(eta.to(x_0.dtype), x_0.device)
        predicted = model(self.scheduler.add_noise(x_0, eta, t), t).sample
        return mse_loss(predicted, eta, reduction="sum") / x_0[0].numel()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean squared error of the predicted noise, per pixel, shape ()."""
        total = self._loss(self.model, batch, self.current_epoch, Purpose.TRAINING)
        self.update_loss("train", total, len(batch["x"]))
        return self.scale_loss(total, len(batch["x"]))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update the error of the averaged weights, with the same noise in every epoch."""
        total = self._loss(self.averaged, batch, 0, Purpose.VALIDATION)
        self.update_loss("val", total, len(batch["x"]))

    def on_train_end(self) -> None:
        """Write the pipeline folder atomically."""
        if self.trainer.is_global_zero:
            write_pipeline(self.averaged.module, self.scheduler, self.save_to)


def _zero_loss(model: nn.Module) -> Tensor:
    """Return 0 with a gradient of zeros: processes without samples take part in a step too."""
    zero: Tensor = sum((x.sum() for x in model.parameters()), torch.zeros(())) * 0
    return zero
