"""Data of a Random Hierarchy Model, for classifiers and for denoisers."""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import Batch
from lit_hier.data.splits import Split, SplitDataModule
from lit_hier.errors import InputError
from lit_hier.rhm import Grammars, RandomHierarchyModel, whitened_one_hot
from lit_hier.rhm.distinct import draw_distinct

_MOST: Final = 10**10  # symbols that may be asked for: more would not fit into most memories
_CHUNK: Final = 65536  # data derived at a time: bounds what a tree's latents take


class RHMDataset(Dataset[Batch]):
    """Leaves and classes of one or several grammars; an item is a whole batch.

    Sample g N + i is datum i of grammar g.

    Args:
        grammars: G of them.
        leaves: One tensor per grammar, any integer type, shape (N, s**L).
        label: Classes, shape (G, N).
    """

    def __init__(
        self, grammars: Sequence[RandomHierarchyModel], leaves: Sequence[Tensor], label: Tensor
    ) -> None:
        self.grammars = grammars
        self.leaves = leaves
        self.label = label

    def __len__(self) -> int:
        """Data of all grammars."""
        return self.label.numel()

    def __getitem__(self, index: Tensor) -> Batch:
        """Give a batch: samples of one grammar.

        Returns:
            `x`, whitened one-hot leaves, float32, (B, v, s**L); `label`, int64, (B,); `leaves`,
            int64, (B, s**L); `index`, the sample indices asked for, int64, (B,); `source`, the
            number of the grammar, int64, ().
        """
        num_each = self.label.shape[1]
        first = int(index[0]) // num_each if len(index) else 0
        assert (index // num_each == first).all(), "a batch is of one grammar"
        rows = index - first * num_each
        leaves = self.leaves[first][rows].long()
        x = whitened_one_hot(leaves, self.grammars[first].num_features)
        label = self.label[first, rows].long()
        source = torch.tensor(first)
        return {"x": x, "label": label, "leaves": leaves, "index": index, "source": source}


class RHMDataModule(SplitDataModule):
    """Training, validation, test and prediction data that have no datum in common.

    All are drawn uniformly without replacement from the data of the grammar, in this order; so the
    training set depends on (seed, num_train) alone, and whatever a later run with the same two
    holds out, a network trained on it has not seen. Batches are those of `RHMDataset`, planned by
    `PlannedBatches`. Of an ensemble, each grammar has as many data as the numbers say, and each
    batch is of one grammar.

    Args:
        rhm: The grammar, or an ensemble of them.
        num_train: Training data n; the set is fixed, as in the paper. To look into a trained
            network give the number that it was trained on, or its training data pass for held-out
            ones.
        num_val: Validation data.
        num_test: Test data; also the usual reference set for the statistics of activations.
        num_predict: Held-out data that `lit-hier predict` turns round.
        batch_size: Data per training step, all processes together.
        eval_batch_size: Data per batch elsewhere.
        seed: Seed of the data and of their shuffles.

    Raises:
        InputError: A number is too small, or the grammar has fewer data than all splits need.
    """

    def __init__(
        self,
        rhm: Grammars,
        num_train: int = 60_000,
        num_val: int = 2_000,
        num_test: int = 2_000,
        num_predict: int = 1_000,
        batch_size: int = 256,
        eval_batch_size: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed, num_blocks=len(rhm.grammars))
        self.rhm = rhm
        self.grammars = rhm.grammars
        self.sizes: dict[Split, int] = {
            "train": num_train,
            "val": num_val,
            "test": num_test,
            "predict": num_predict,
        }
        for split, size in self.sizes.items():
            least = 1 if split == "predict" else 0
            if size < least:
                raise InputError(f"num_{split} is {size}; give at least {least}")
        if batch_size < 1 or eval_batch_size < 1:
            raise InputError("batch_size and eval_batch_size must be at least 1")
        wanted = sum(self.sizes.values())
        if wanted * sum(grammar.num_leaves for grammar in self.grammars) > _MOST:
            raise InputError(
                f"num_layers and num_train ask for {wanted} data of"
                f" {max(grammar.num_leaves for grammar in self.grammars)} leaves;"
                f" more than {_MOST} symbols do not fit into memory"
            )
        for grammar in self.grammars:
            if wanted > grammar.num_data:
                raise InputError(
                    f"num_train + num_val + num_test + num_predict = {wanted}, but {grammar} makes"
                    f" only {grammar.num_data} data, too few for splits that share none; ask for"
                    " fewer data or take a larger num_synonyms, tuple_size or num_layers"
                )
        if seed < 0:
            raise InputError(f"seed is {seed}; give at least 0")

    @property
    def num_classes(self) -> int:
        """Classes: n of the first grammar."""
        return self.grammars[0].num_classes

    @property
    def training_set(self) -> str:
        """What decides the training set, in one line: grammar, rules, size, seed."""
        if len(self.grammars) > 1:
            return f"{len(self.grammars)} grammars"
        rhm = self.grammars[0]
        rules = hashlib.sha256(b"".join(rule.numpy().tobytes() for rule in rhm.rules))
        return (
            f"an RHM{rhm.parameters} with rules {rules.hexdigest()[:12]},"
            f" num_train={self.sizes['train']}, seed={self.seed}"
        )

    def setup(self, stage: str | None = None) -> None:
        """Draw all splits, once."""
        if self._splits:
            return
        sizes = list(self.sizes.values())
        drawn = [self._draw(number) for number in range(len(self.grammars))]
        leaves = zip(*(x.split(sizes) for x, _ in drawn), strict=True)
        labels = zip(*(y.split(sizes) for _, y in drawn), strict=True)
        self._splits = {
            split: RHMDataset(self.grammars, x, torch.stack(y))
            for split, x, y in zip(self.sizes, leaves, labels, strict=True)
        }

    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Draw the data of one grammar for all splits: leaves and classes."""
        rhm = self.grammars[number]
        words = draw_distinct(
            np.random.default_rng([self.seed, number]),
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
        return leaves, label

    def _dataloader(self, split: Split) -> DataLoader[Batch]:
        if not self.sizes[split]:
            raise InputError(f"num_{split} is 0; give at least 1")
        if split == "train" and len(self.grammars) > 1:
            raise InputError(f"rhm: a network learns the data of one grammar, not of {self.rhm}")
        return super()._dataloader(split)
