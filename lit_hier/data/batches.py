"""Batches planned once from the index list and shared out whole among processes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lit_hier.errors import InputError

Batch = dict[str, Any]


class PlannedBatches(Sampler[Tensor]):
    """The batches of one process.

    The plan does not know how many processes there are, so at a given batch size a batch holds
    the same samples on one process and on many. In order, a process gets a run of neighbouring
    batches, each batch exactly once over all processes. Shuffled, for training, the batches are
    dealt out in turn and the few left over are dropped, as every process must take equally many
    steps.

    Pass it as `sampler` with `batch_size=None` to a `DataLoader` whose data set takes a tensor of
    indices.

    Args:
        num_samples: Samples, at least 1.
        batch_size: Samples per batch; the last one of a block may be smaller.
        rank: This process.
        num_processes: How many share the plan.
        shuffle_seed: Shuffle anew for each epoch as (seed, epoch) says; `None` keeps the order.
        size_name: The user's name for `batch_size`, for the error's message.
        num_blocks: Blocks of equally many samples; no batch has samples of two.

    Raises:
        InputError: There are fewer batches than processes, or no samples or batch size.
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
        self.block_size = num_samples // num_blocks
        self.batches_per_block = -(-self.block_size // batch_size)
        num_batches = num_blocks * self.batches_per_block
        if num_batches < num_processes:
            raise InputError(
                f"{size_name}={batch_size} makes {num_batches} batches of {num_samples} samples,"
                f" too few for {num_processes} processes; take a smaller batch or fewer devices"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.epoch = 0
        if shuffle_seed is None:
            shares = [k * num_batches // num_processes for k in (rank, rank + 1)]
            self.numbers = range(*shares)
        else:
            self.numbers = range(rank, num_batches // num_processes * num_processes, num_processes)

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
        for number in self.numbers:
            block, place = divmod(number, self.batches_per_block)
            end = (block + 1) * self.block_size
            start = block * self.block_size + place * self.batch_size
            yield order[start : min(start + self.batch_size, end)]


def check_sharing(trainer: Trainer | None) -> None:
    """Check that the trainer leaves it to the data module to share out batches.

    Raises:
        InputError: It would share them out in another way.
    """
    if (
        trainer is not None
        and trainer.world_size > 1
        and trainer._accelerator_connector.use_distributed_sampler
    ):
        raise InputError(
            "trainer.use_distributed_sampler: set it to false;"
            " the data module shares out its batches itself"
        )


def planned_loader(
    trainer: Trainer | None,
    dataset: Dataset[Batch],
    batch_size: int,
    limited: bool = False,
    num_workers: int = 0,
    **plan: Any,
) -> DataLoader[Batch]:
    """Load a data set, whose items are whole batches, as `PlannedBatches` plans.

    Args:
        trainer: Says which process this is; without one there is one process.
        dataset: Takes a tensor of indices.
        batch_size: Samples per batch.
        limited: Whether the trainer's `limit_predict_batches` holds.
        num_workers: Processes that load batches ahead, kept from epoch to epoch; 0 for none.
        **plan: See `PlannedBatches`.

    Raises:
        InputError: A process would be left without a batch.
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
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
