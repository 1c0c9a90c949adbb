"""What all samplers of the forward-backward experiment share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.processes import TimeAxis


def _untracked(times: Iterable[float]) -> Iterable[float]:
    return times


def _uncounted(num: int) -> None:
    pass


class ForwardBackwardModule(LightningModule, ABC):
    """A sampler: `forward_backward` turns a batch round at every inversion time.

    Args:
        times: Inversion times, ascending.
        axis: What they mean.
        seed: Seed of all that is random, 0 to 2^64 - 1.

    Attributes:
        times: Inversion times, ascending.
        axis: What they mean.
        seed: As given.
        messages: Whether records hold upward and downward messages.
        sources: What the run's data come from; records say which.
        track: Wraps the times as `predict_step` goes through them; a progress bar puts itself
            here.
        advance: Takes how many evaluations of a model have been made since; likewise.

    Raises:
        InputError: The seed is out of range.
    """

    messages = False

    def __init__(self, times: Sequence[float], axis: TimeAxis, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= seed < 2**64:
            raise InputError(f"seed is {seed}; give 0 to 2^64 - 1")
        self.seed = seed
        self.axis = axis
        self.times = tuple(float(time) for time in times)
        self.sources: tuple[Source, ...] = (Source(),)
        self.track: Callable[[Iterable[float]], Iterable[float]] = _untracked
        self.advance: Callable[[int], object] = _uncounted

    def check_finite(self, x: Tensor, index: Tensor, culprit: str, remedy: str) -> None:
        """Refuse numbers that are none.

        Args:
            x: Shape (T, B, ...).
            index: Sample indices, shape (B,).
            culprit: What has made them, with the user's name for it first.
            remedy: What to do.

        Raises:
            InputError: Some are NaN or infinite; the first of them is named.
        """
        if len(lost := (~x.isfinite()).flatten(2).any(-1).nonzero()):
            k, sample = lost[0].tolist()
            raise InputError(
                f"{culprit} gives no finite numbers for sample {int(index[sample])} at"
                f" {self.axis.symbol} = {self.times[k]:g}; {remedy}"
            )

    def num_evaluations(self, index: Tensor) -> int:
        """Count the evaluations of a model, per sample, that a batch will take.

        Args:
            index: Sample indices of the batch, int64, shape (B,).

        Returns:
            Their number; 0 where counting them is no use.
        """
        return 0

    @abstractmethod
    def forward_backward(self, batch: Any) -> ForwardBackward:
        """Corrupt a batch to each inversion time and draw data from the posterior."""

    def predict_step(self, batch: Any, batch_idx: int) -> ForwardBackward:
        """Turn a batch round; one without samples gives a record without any.

        Args:
            batch: As `forward_backward` takes it: a dictionary with `x`, `label` and `index`.
            batch_idx: Unused.
        """
        if len(batch["index"]):
            return self.forward_backward(batch)
        x = batch["x"]
        return ForwardBackward(
            x_start=x,
            x_reversed=x.new_empty(len(self.times), *x.shape),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=batch["index"],
            label=batch["label"],
            image_counts=batch.get("image_counts"),
        )
