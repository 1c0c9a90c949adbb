"""Batches planned once from the index list and shared out whole among processes."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from lit_hier.errors import InputError


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
        batch_size: Samples per batch; the last one of the plan may be smaller.
        rank: This process.
        num_processes: How many share the plan.
        shuffle_seed: Shuffle anew for each epoch as (seed, epoch) says; `None` keeps the order.
        size_name: The user's name for `batch_size`, for the error's message.

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
    ) -> None:
        for name, value in (("number of samples", num_samples), (size_name, batch_size)):
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        num_batches = -(-num_samples // batch_size)
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
            start = number * self.batch_size
            yield order[start : start + self.batch_size]
