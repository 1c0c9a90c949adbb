"""Batches planned once from the index list and shared out whole among processes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lit_hier.errors import InputError

Batch = dict[str, Any]


class PlannedBatches(DistributedSampler[Tensor]):
    """The batches of one process.

    The plan does not know how many processes there are, so that numbers do not depend on it:

    - In order, a batch holds the same samples on one process and on many. A process gets a run of
      neighbouring batches, each batch exactly once over all processes. One that is left without
      gets the batch after the last, which is empty: it takes part in all that processes do
      together.
    - Shuffled, for training, each batch is one step of the optimizer, and every process gets its
      part of each: parts differ by one sample at most, and may be empty.

    Pass it as `sampler` with `batch_size=None` to a `DataLoader` whose data set takes a tensor of
    indices. Lightning does not replace it, as it is a `DistributedSampler` already.

    Args:
        num_samples: Samples, at least 1.
        batch_size: Samples per batch; the last one of a block may be smaller.
        rank: This process.
        num_processes: How many share the plan.
        shuffle_seed: Shuffle anew for each epoch as (seed, epoch) says; `None` keeps the order.
        size_name: The user's name for `batch_size`, for the error's message.
        num_blocks: Blocks of equally many samples; no batch has samples of two.

    Attributes:
        numbers: Which of the plan's batches are this process's.
        skipped: How many of them the next epoch leaves out: a training that goes on from within
            an epoch has seen them.

    Raises:
        InputError: There are no samples, or no batch size.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        rank: int = 0,
        num_processes: int = 1,
        shuffle_seed: int | None = None,
        size_name: str = "batch_size",
        num_blocks: int = 1,
    ) -> None:
        for name, value in (("number of samples", num_samples), (size_name, batch_size)):
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        super().__init__(range(num_samples), num_processes, rank)  # type: ignore[arg-type]
        self.block_size = num_samples // num_blocks
        self.batches_per_block = -(-self.block_size // batch_size)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.skipped = 0
        self.num_processes = num_processes
        num_batches = num_blocks * self.batches_per_block
        self.numbers = range(num_batches)
        if shuffle_seed is None:
            first, end = (k * num_batches // num_processes for k in (rank, rank + 1))
            idle = range(num_batches, num_batches + 1)
            self.numbers = range(first, end) or idle

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's shuffle; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the sample indices of each batch, int64."""
        order = torch.arange(self.num_samples)
        if self.shuffle_seed is not None:
            generator = np.random.default_rng([self.shuffle_seed, self.epoch])
            order = torch.from_numpy(generator.permutation(self.num_samples))
        numbers, self.skipped = self.numbers[self.skipped :], 0
        for number in numbers:
            block, place = divmod(number, self.batches_per_block)
            end = (block + 1) * self.block_size
            start = block * self.block_size + place * self.batch_size
            batch = order[start : min(start + self.batch_size, end)]
            if self.shuffle_seed is not None:
                batch = batch.tensor_split(self.num_processes)[self.rank]
            yield batch


class PlannedLoader(DataLoader[Batch]):
    """Loads what `PlannedBatches` plans, and can go on from within an epoch.

    Lightning keeps its state in checkpoints, and gives it back when training goes on.
    """

    sampler: PlannedBatches
    given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches of an epoch."""
        self.given = self.sampler.skipped
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Say how many batches of the epoch were given."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave them out of the next epoch, if that is the one they are of."""
        self.sampler.skipped = state["given"] % len(self.sampler)


def planned_loader(
    trainer: Trainer | None,
    dataset: Dataset[Batch],
    batch_size: int,
    limited: bool = False,
    num_workers: int = 0,
    **plan: Any,
) -> PlannedLoader:
    """Load a data set, whose items are whole batches, as `PlannedBatches` plans.

    Args:
        trainer: Says which process this is; without one there is one process.
        dataset: Takes a tensor of indices.
        batch_size: Samples per batch.
        limited: Whether the trainer's `limit_predict_batches` holds.
        num_workers: Processes that load batches ahead, kept from epoch to epoch; 0 for none.
        **plan: See `PlannedBatches`.

    Raises:
        InputError: The limit leaves nothing.
    """
    rank, num_processes, limit = 0, 1, None
    if trainer is not None:
        rank, num_processes = trainer.global_rank, trainer.world_size
        limit = trainer.limit_predict_batches
    sampler = PlannedBatches(len(dataset), batch_size, rank, num_processes, **plan)  # type: ignore[arg-type]
    if limited and isinstance(limit, float) and len(sampler) * limit < 1:
        raise InputError(
            f"trainer.limit_predict_batches={limit} leaves a process without a batch;"
            " leave it out and lower num_predict instead"
        )
    return PlannedLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
