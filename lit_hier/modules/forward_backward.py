"""The base class of all samplers of the forward-backward experiment."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lit_hier.diffusion import ForwardBackward, Source, Training
from lit_hier.errors import InputError
from lit_hier.processes import NoiseProcess, TimeAxis


def _untracked(times: Iterable[float]) -> Iterable[float]:
    return times


def _uncounted(num: int) -> None:
    pass


class ForwardBackwardModule(LightningModule, ABC):
    """A sampler: `forward_backward` corrupts and denoises a batch at every inversion time.

    Args:
        times: Inversion times, ascending.
        axis: The meaning of the times.
        seed: Seed of all random numbers, 0 to 2^64 - 1.

    Attributes:
        times: Inversion times, ascending.
        axis: The meaning of the times.
        seed: The seed.
        messages: Whether records hold upward and downward messages.
        noise_process: The corruption process, for predictions; None if there is no theory of it.
        sources: What the run's data are drawn from; each record has its `source_index`.
        trainings: How the denoiser of each source was trained; empty for denoisers that were not.
        copies: How often a data module repeats its data for prediction, each time with the next
            `source`.
        track: Wraps the times as `predict_step` iterates over them; set by a progress bar.
        advance: Takes the number of model evaluations since its last call; set by a progress bar.

    Raises:
        InputError: The seed is out of range.
    """

    messages = False
    noise_process: NoiseProcess | None = None

    def __init__(self, times: Sequence[float], axis: TimeAxis, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= seed < 2**64:
            raise InputError(f"seed is {seed}; give 0 to 2^64 - 1")
        self.seed = seed
        self.axis = axis
        self.times = tuple(float(time) for time in times)
        self.sources: tuple[Source, ...] = (None,)
        self.trainings: tuple[Training, ...] = ()
        self.copies = 1
        self.track: Callable[[Iterable[float]], Iterable[float]] = _untracked
        self.advance: Callable[[int], object] = _uncounted

    @property
    def uniform_prior(self) -> bool:
        """Whether every class is equally probable before the data are seen, as theory assumes."""
        return True

    def check_finite(self, x: Tensor, index: Tensor, culprit: str, remedy: str) -> None:
        """Reject non-finite samples.

        Args:
            x: Shape (T, B, ...).
            index: Sample indices, shape (B,).
            culprit: What computed them, beginning with the user's name for it.
            remedy: What to do.

        Raises:
            InputError: A value is NaN or infinite; the message names the first such sample.
        """
        if len(lost := (~x.isfinite()).flatten(2).any(-1).nonzero()):
            k, sample = lost[0].tolist()
            raise InputError(
                f"{culprit} returns NaN or infinity for sample {int(index[sample])} at"
                f" {self.axis.symbol} = {self.times[k]:g}; {remedy}"
            )

    def num_evaluations(self, index: Tensor) -> int:
        """Count the evaluations of a model, per sample, that a batch will take.

        Args:
            index: Sample indices of the batch, int64, shape (B,).

        Returns:
            Their number; 0 if counting them is not useful.
        """
        return 0

    def num_written_bytes(self, index: Tensor) -> int:
        """Count the bytes that a batch has taken on disk, besides the results.

        Args:
            index: Sample indices of the batch, int64, shape (B,).
        """
        return 0

    def training_split(self) -> tuple[int, int | None]:
        """Return the number of data that were trained on, and their seed, to draw others.

        Data of a grammar that come after so many in the order of this seed are held out, see
        `RHMDataModule`. By default 0 and None: nothing was trained, any seed will do.

        Raises:
            InputError: They are unknown.
        """
        return 0, None

    @abstractmethod
    def forward_backward(self, batch: Any) -> ForwardBackward:
        """Corrupt a batch to each inversion time and sample the posterior."""

    def predict_step(self, batch: Any, batch_idx: int) -> ForwardBackward:
        """Run forward-backward on a batch; an empty batch yields an empty record.

        Args:
            batch: A dictionary with `x`, `label` and `index`; see `forward_backward`.
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
