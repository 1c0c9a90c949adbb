"""What samplers of images share, whether they make samples or read them."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_hier.diffusion import ForwardBackward
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.noise import TimeAxis
from lit_hier.pixels import quantise


class ImageSampler(ForwardBackwardModule):
    """A sampler whose inversion times are steps of a respaced diffusion.

    Args:
        steps: Inversion steps, ascending.
        num_steps: Of the reverse process.
        seed: Seed of the noise, 0 to 2^64 - 1.
    """

    def __init__(self, steps: Sequence[int], num_steps: int, seed: int = 0) -> None:
        axis = TimeAxis("ddpm", f"inversion step, of {num_steps}", "k", float(num_steps))
        super().__init__(steps, axis, seed)
        self.steps = list(steps)
        self.num_steps = num_steps

    @abstractmethod
    def turn_round(self, x_start: Tensor, index: Tensor, label: Tensor) -> Tensor:
        """Give the samples of a batch.

        Args:
            x_start: Images in [-1, 1], of 256 levels, float32, shape (B, C, H, W).
            index: Sample indices, int64, shape (B,).
            label: Classes, int64, shape (B,).

        Returns:
            Of 256 levels, float32, shape (T, B, C, H, W).
        """

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ForwardBackward:
        """Turn a batch round at each inversion step.

        Args:
            batch: `x`, images in [-1, 1], of 256 levels, (B, C, H, W), `label`, (B,), `index`,
                (B,); `remedies`, (3,), if images come from files. Half precision loses nothing.
            batch_idx: Unused.
        """
        x_start, index, label = quantise(batch["x"]), batch["index"], batch["label"]
        if len(index):
            x_reversed = self.turn_round(x_start, index, label)
        else:  # none of its images could be read
            x_reversed = x_start.new_empty(len(self.steps), *x_start.shape)
        return ForwardBackward(
            x_start=x_start,
            x_reversed=x_reversed,
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=label,
            remedies=batch.get("remedies"),
        )
