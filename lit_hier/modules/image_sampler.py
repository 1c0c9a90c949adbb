"""The base class of samplers of images, whether they compute samples or read them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lit_hier.diffusion import ForwardBackward
from lit_hier.diffusion.images import ImageBatch
from lit_hier.io.pixels import quantise
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.processes import TimeAxis


class ImageSampler(ForwardBackwardModule):
    """A sampler whose inversion times are steps of a respaced diffusion.

    Args:
        steps: Inversion steps, ascending.
        num_steps: Steps of the reverse process.
        seed: Seed of the noise, 0 to 2^64 - 1.
    """

    _size_origin = ""
    """Where the model's size is from, if it is not the model that tells it."""

    def __init__(self, steps: Sequence[int], num_steps: int, seed: int = 0) -> None:
        axis = TimeAxis("ddpm", f"inversion step, of {num_steps}", "k", float(num_steps))
        super().__init__(steps, axis, seed)
        self.steps = list(steps)
        self.num_steps = num_steps

    @property
    def image_size(self) -> int | None:
        """Pixels per side of the model's images, which data modules take; `None` if unknown."""
        return None

    def setup(self, stage: str) -> None:
        """Compare the model's size with that of the data: see `compare_sizes`."""
        self.compare_sizes()

    def compare_sizes(self) -> None:
        """Warn of images of another size than the model's.

        Raises:
            InputError: They do not have that of saved samples.
        """
        size = getattr(getattr(self.trainer, "datamodule", None), "size", None)
        if isinstance(size, int) and self.image_size not in (None, size):
            self._reject_size(size)

    def _reject_size(self, size: int) -> None:
        rank_zero_warn(
            f"size: the images have {size} pixels per side, but the model was trained on"
            f" {self.image_size}{self._size_origin}, and sees objects of another scale; leave out"
            " the data module's size, which is then the model's"
        )

    @abstractmethod
    def sample(self, images: ImageBatch) -> Tensor:
        """Return x_reversed of a batch, 8-bit levels as float32, shape (T, B, C, H, W)."""

    def forward_backward(self, batch: dict[str, Any]) -> ForwardBackward:
        """Run forward-backward on a batch of images at each inversion step.

        Args:
            batch: `x`, images in [-1, 1] on 8-bit levels, (B, C, H, W), `label`, (B,), and
                `index`, (B,). For images from files also `image_counts`, (5,), `planned`, the
                sample indices requested, and `name`, a list. Half precision is lossless.
        """
        names = ("index", "label", "planned")
        known = {name: batch[name].cpu() for name in names if name in batch}
        known.setdefault("planned", known["index"])
        images = ImageBatch(quantise(batch["x"]), **known, names=batch.get("name", ()))
        return ForwardBackward(
            x_start=images.x_start,
            x_reversed=self.sample(images),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=batch["index"],
            label=batch["label"],
            image_counts=batch.get("image_counts"),
        )
