"""Data of a Random Hierarchy Model, for classifiers and for denoisers."""

import hashlib
from typing import Final, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import PlannedBatches
from lit_hier.errors import InputError
from lit_hier.rhm import RandomHierarchyModel, whitened_one_hot
from lit_hier.rhm.distinct import draw_distinct

Split = Literal["train", "val", "test", "predict"]
Batch = dict[str, Tensor]

_MOST: Final = 10**10  # symbols that may be asked for: more would not fit into most memories
_CHUNK: Final = 65536  # data derived at a time: bounds what a tree's latents take


class RHMDataset(Dataset[Batch]):
    """Leaves and classes; an item is a whole batch.

    Args:
        rhm: The grammar.
        leaves: Any integer type, shape (N, s**L).
        label: Classes, shape (N,).
    """

    def __init__(self, rhm: RandomHierarchyModel, leaves: Tensor, label: Tensor) -> None:
        self.rhm = rhm
        self.leaves = leaves
        self.label = label

    def __len__(self) -> int:
        """Data."""
        return len(self.label)

    def __getitem__(self, index: Tensor) -> Batch:
        """Give a batch.

        Returns:
            `x`, whitened one-hot leaves, float32, (B, v, s**L); `label`, int64, (B,); `leaves`,
            int64, (B, s**L); `index`, the sample indices asked for, int64, (B,).
        """
        leaves = self.leaves[index].long()
        x = whitened_one_hot(leaves, self.rhm.num_features)
        return {"x": x, "label": self.label[index].long(), "leaves": leaves, "index": index}


class RHMDataModule(LightningDataModule):
    """Training, validation, test and prediction data that have no datum in common.

    All are drawn uniformly without replacement from the data of the grammar, in this order; so the
    training set depends on (seed, num_train) alone, and whatever a later run with the same two
    holds out, a network trained on it has not seen. Batches are those of `RHMDataset`, planned by
    `PlannedBatches`.

    Args:
        rhm: The grammar.
        num_train: Training data n; the set is fixed, as in the paper. To look into a trained
            network give the number that it was trained on, or its training data pass for held-out
            ones.
        num_val: Validation data.
        num_test: Test data; also the usual reference set for the statistics of activations.
        num_predict: Held-out data that `lit-hier predict` turns round.
        batch_size: Data per batch in training.
        eval_batch_size: Data per batch elsewhere.
        seed: Seed of the data and of their shuffles.

    Raises:
        InputError: A number is too small, or the grammar has fewer data than all splits need.
    """

    def __init__(
        self,
        rhm: RandomHierarchyModel,
        num_train: int = 60_000,
        num_val: int = 2_000,
        num_test: int = 2_000,
        num_predict: int = 1_000,
        batch_size: int = 256,
        eval_batch_size: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.rhm = rhm
        self.sizes: dict[Split, int] = {
            "train": num_train,
            "val": num_val,
            "test": num_test,
            "predict": num_predict,
        }
        for split, size in self.sizes.items():
            if size < 1:
                raise InputError(f"num_{split} is {size}; give at least 1")
        if batch_size < 1 or eval_batch_size < 1:
            raise InputError("batch_size and eval_batch_size must be at least 1")
        wanted = sum(self.sizes.values())
        if wanted * rhm.num_leaves > _MOST:
            raise InputError(
                f"num_layers and num_train ask for {wanted} data of {rhm.num_leaves} leaves;"
                f" more than {_MOST} symbols do not fit into memory"
            )
        if wanted > rhm.num_data:
            raise InputError(
                f"num_train + num_val + num_test + num_predict = {wanted}, but {rhm} makes only"
                f" {rhm.num_data} data, too few for splits that share none; ask for fewer data or"
                " take a larger num_synonyms, tuple_size or num_layers"
            )
        if seed < 0:
            raise InputError(f"seed is {seed}; give at least 0")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self._splits: dict[Split, RHMDataset] = {}

    @property
    def training_set(self) -> str:
        """What decides the training set, in one line: grammar, rules, size, seed."""
        rules = hashlib.sha256(b"".join(rule.numpy().tobytes() for rule in self.rhm.rules))
        return (
            f"an RHM{self.rhm.parameters} with rules {rules.hexdigest()[:12]},"
            f" num_train={self.sizes['train']}, seed={self.seed}"
        )

    def setup(self, stage: str | None = None) -> None:
        """Draw all splits, once.

        Raises:
            InputError: The trainer would share out the batches in another way.
        """
        if self._splits:
            return
        if self.trainer is not None and self.trainer.world_size > 1:
            connector = self.trainer._accelerator_connector
            if connector.use_distributed_sampler:
                raise InputError(
                    "trainer.use_distributed_sampler: set it to false;"
                    " the data module shares out its batches itself"
                )
        rhm = self.rhm
        words = draw_distinct(
            np.random.default_rng(self.seed),
            sum(self.sizes.values()),
            [rhm.num_classes] + [rhm.num_synonyms] * rhm.num_choices,
            what="data",
        )
        label = torch.from_numpy(words[:, 0].astype(np.int64))
        dtype = torch.uint8 if rhm.num_features <= 256 else torch.int64
        leaves = torch.empty(len(words), rhm.num_leaves, dtype=dtype)
        for start in range(0, len(words), _CHUNK):
            part = slice(start, start + _CHUNK)
            choices = torch.from_numpy(words[part, 1:].astype(np.int64))
            leaves[part] = rhm.derive(label[part], choices)[0].to(dtype)
        sizes = list(self.sizes.values())
        parts = zip(self.sizes, leaves.split(sizes), label.split(sizes), strict=True)
        self._splits = {split: RHMDataset(rhm, x, y) for split, x, y in parts}

    def _dataloader(self, split: Split) -> DataLoader[Batch]:
        rank, num_processes = 0, 1
        if self.trainer is not None:
            rank, num_processes = self.trainer.global_rank, self.trainer.world_size
        training = split == "train"
        plan = PlannedBatches(
            len(self._splits[split]),
            self.batch_size if training else self.eval_batch_size,
            rank,
            num_processes,
            shuffle_seed=self.seed if training else None,
            size_name="batch_size" if training else "eval_batch_size",
        )
        limit = None if self.trainer is None else self.trainer.limit_predict_batches
        if split == "predict" and isinstance(limit, float) and len(plan) * limit < 1:
            raise InputError(
                f"trainer.limit_predict_batches={limit} leaves a process without a batch;"
                " leave it out and lower num_predict instead"
            )
        return DataLoader(self._splits[split], sampler=plan, batch_size=None)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training data, shuffled anew each epoch."""
        return self._dataloader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation data, in order."""
        return self._dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test data, in order."""
        return self._dataloader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Held-out data to be turned round, in order; an item's index is its sample index."""
        return self._dataloader("predict")
