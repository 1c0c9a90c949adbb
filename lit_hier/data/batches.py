"""Batches planned once from the list of sample indices and distributed whole over processes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lit_hier.errors import InputError

Batch = dict[str, Any]


class PlannedBatches(DistributedSampler[Tensor]):
    """The batches of one process, from a plan that does not depend on the number of processes.

    - In order: a batch holds the same samples on one process and on many. Each process gets
      consecutive batches, and each batch goes to exactly one process. A process without a batch
      gets an empty one, with the index after the last, so that it takes part in collective
      operations.
    - Shuffled, for training: each batch is one optimizer step, and every process gets its part of
      each batch. The sizes of the parts differ by at most one sample; a part may be empty.

    Pass it as `sampler`, with `batch_size=None`, to a `DataLoader` whose dataset takes a tensor of
    indices. It is a `DistributedSampler` because Lightning replaces any other on several
    processes.

    Args:
        num_samples: Number of samples, at least 1.
        batch_size: Samples per batch; the last batch of a block may be smaller.
        rank: Rank of this process.
        num_processes: Number of processes.
        shuffle_seed: Shuffle each epoch by (seed, epoch); `None` keeps the order.
        size_name: The user's name for `batch_size`, for the error message.
        num_blocks: Number of equally large blocks of samples; no batch spans two blocks.

    Attributes:
        indices: Indices, in the plan, of the batches of this process.
        skipped: How many of them the next epoch skips, where training resumes within an epoch.

    Raises:
        InputError: `num_samples` or `batch_size` is below 1.
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
        num_batches = num_blocks * self.batches_per_block
        self.indices = range(num_batches)
        if shuffle_seed is None:
            first, end = (k * num_batches // num_processes for k in (rank, rank + 1))
            idle = range(num_batches, num_batches + 1)
            self.indices = range(first, end) or idle

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the sample indices of each batch, int64, shape (B,)."""
        order = torch.arange(self.num_samples)
        if self.shuffle_seed is not None:
            generator = np.random.default_rng([self.shuffle_seed, self.epoch])
            order = torch.from_numpy(generator.permutation(self.num_samples))
        indices, self.skipped = self.indices[self.skipped :], 0
        for index in indices:
            block, position = divmod(index, self.batches_per_block)
            end = (block + 1) * self.block_size
            start = block * self.block_size + position * self.batch_size
            batch = order[start : min(start + self.batch_size, end)]
            if self.shuffle_seed is not None:
                batch = batch.tensor_split(self.num_replicas)[self.rank]
            yield batch


class NestedBatches(PlannedBatches):
    """The batches of networks that are trained at once on nested training sets.

    Network k is trained on the first P_k data, in epochs of its own: its step g is step
    g mod S_k of its epoch g div S_k, S_k = ceil(P_k / batch_size), shuffled by (seed, that epoch).
    Its batches are therefore those that it gets if it is trained alone. An epoch of the plan is
    one of the network with the most data.

    Args:
        num_train: Training data of each network, P_k, each at least 1.
        batch_size: Samples per step of a network; see `PlannedBatches`.
        rank: Rank of this process.
        num_processes: Number of processes.
        shuffle_seed: Seed of the shuffles.
    """

    def __init__(
        self,
        num_train: Sequence[int],
        batch_size: int,
        rank: int = 0,
        num_processes: int = 1,
        shuffle_seed: int = 0,
    ) -> None:
        super().__init__(max(num_train), batch_size, rank, num_processes, shuffle_seed)
        self.plans = [
            PlannedBatches(num, batch_size, rank, num_processes, shuffle_seed) for num in num_train
        ]

    def __iter__(self) -> Iterator[list[tuple[Tensor, int]]]:  # type: ignore[override]
        """Yield, for each step, the sample indices, int64, and the epoch of each network."""
        first = self.epoch * len(self)
        indices, self.skipped = self.indices[self.skipped :], 0
        running = [_Steps(plan) for plan in self.plans]
        for index in indices:
            yield [steps.get(first + index) for steps in running]


class _Steps:
    """The batches of one plan by their number since training began, in ascending order."""

    def __init__(self, plan: PlannedBatches) -> None:
        self.plan = plan
        self.epoch = -1
        self.batches: list[Tensor] = []

    def get(self, step: int) -> tuple[Tensor, int]:
        """Return the sample indices of a step, and its epoch."""
        epoch, position = divmod(step, len(self.plan))
        if epoch != self.epoch:
            self.plan.set_epoch(epoch)
            self.epoch, self.batches = epoch, list(self.plan)
        return self.batches[position], epoch


def nested_numbers(num_train: int | Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of data of nested training sets.

    Args:
        num_train: One number, or several that ascend.

    Raises:
        InputError: They are no such numbers.
    """
    given = [num_train] if isinstance(num_train, int) else list(num_train)
    if not given:
        raise InputError("num_train is an empty list; give at least one number")
    for num in given:
        if isinstance(num, bool) or not isinstance(num, int):
            raise InputError(f"num_train has {num!r}; give integers")
        if num < 1:
            raise InputError(f"num_train has {num}; give at least 1")
    if any(b <= a for a, b in pairwise(given)):
        raise InputError(f"num_train is {given}; give numbers that ascend, each once")
    return tuple(given)


class NestedDataset(Dataset[list[Batch]]):
    """Batches of a dataset for each of several networks, as `NestedBatches` plans them.

    Args:
        dataset: Takes a tensor of indices.
    """

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, parts: list[tuple[Tensor, int]]) -> list[Batch]:
        """Return a batch for each network; its `epoch` is the network's, an int."""
        indices, epochs = zip(*parts, strict=True)
        sizes = list(map(len, indices))
        whole = self.dataset[torch.cat(indices)]  # at once, which is faster
        split = {key: x.split(sizes) if x.ndim else len(sizes) * [x] for key, x in whole.items()}
        return [
            {**{key: x[k] for key, x in split.items()}, "epoch": epoch}
            for k, epoch in enumerate(epochs)
        ]


class PlannedLoader(DataLoader[Batch]):
    """Loads the batches of `PlannedBatches` and can resume within an epoch.

    Lightning saves its state in checkpoints and restores it when training resumes.
    """

    sampler: PlannedBatches
    _num_loaded = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches of an epoch."""
        self._num_loaded = self.sampler.skipped
        for batch in super().__iter__():
            self._num_loaded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches of this epoch that were loaded."""
        return {"given": self._num_loaded}  # the name that existing checkpoints have

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip these batches in the next epoch, unless the saved epoch was complete."""
        self.sampler.skipped = state["given"] % len(self.sampler)


def planned_loader(
    trainer: Trainer | None,
    dataset: Dataset[Batch],
    batch_size: int,
    limited: bool = False,
    num_workers: int = 0,
    num_train: Sequence[int] | None = None,
    **plan: Any,
) -> PlannedLoader:
    """Return a loader of a dataset, whose items are whole batches, planned by `PlannedBatches`.

    Args:
        trainer: Source of the rank and the number of processes; `None` for a single process.
        dataset: Takes a tensor of indices.
        batch_size: Samples per batch.
        limited: Whether `trainer.limit_predict_batches` applies.
        num_workers: Number of worker processes, persistent across epochs; 0 loads in the main
            process.
        num_train: Numbers of data of nested training sets: batches are lists with one batch for
            each, planned by `NestedBatches`.
        **plan: Other arguments of `PlannedBatches`.

    Raises:
        InputError: The limit leaves this process without a batch.
    """
    rank, num_processes, limit = 0, 1, None
    if trainer is not None:
        rank, num_processes = trainer.global_rank, trainer.world_size
        limit = trainer.limit_predict_batches
    sampler: PlannedBatches
    if num_train is None:
        sampler = PlannedBatches(len(dataset), batch_size, rank, num_processes, **plan)  # type: ignore[arg-type]
    else:
        sampler = NestedBatches(num_train, batch_size, rank, num_processes, **plan)
        dataset = NestedDataset(dataset)  # type: ignore[assignment]
    if limited and isinstance(limit, float) and len(sampler) * limit < 1:
        raise InputError(
            f"trainer.limit_predict_batches={limit} leaves a process without a batch;"
            " remove it and lower num_predict instead"
        )
    # A thread pins what worker processes load, so that copies to a GPU do not wait for it.
    pinned = (
        num_workers > 0 and trainer is not None and trainer.strategy.root_device.type == "cuda"
    )
    return PlannedLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pinned,
    )
