"""Data of a Random Hierarchy Model, for classification and for forward-backward."""

import operator
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import Batch, nested_numbers, planned_loader
from lit_hier.data.splits import Split, SplitDataModule
from lit_hier.errors import InputError
from lit_hier.io.memory import check_memory
from lit_hier.rhm import Grammars, RandomHierarchyModel, whitened_one_hot
from lit_hier.rhm.sampling import count_words, sample_distinct_words

# Data derived at a time and numbers in their latents, which bound the memory; changes no bit.
_CHUNK_SIZE: Final = 65536
_CHUNK_NUMBERS: Final = 2**23


class RHMDataset(Dataset[Batch]):
    """Leaves and classes of one or several grammars; an item is a whole batch.

    Sample g N + i is sample i of grammar g. With several copies, sample k G N + j is sample j
    again, for the denoiser of source k.

    Args:
        grammars: The G grammars.
        leaves: One tensor per grammar, any integer type, shape (N, s**L).
        label: Classes, int64, shape (G, N).
        copies: How often the samples are repeated.
    """

    def __init__(
        self,
        grammars: Sequence[RandomHierarchyModel],
        leaves: Sequence[Tensor],
        label: Tensor,
        copies: int = 1,
    ) -> None:
        self.grammars = grammars
        self.leaves = leaves
        self.label = label
        self.copies = copies

    def __len__(self) -> int:
        """Return the number of samples of all grammars, with repeats."""
        return self.label.numel() * self.copies

    def __getitem__(self, index: Tensor) -> Batch:
        """Return the batch of the given sample indices, which belong to one grammar.

        Returns:
            `x`, whitened one-hot leaves, float32, shape (B, v, s**L); `label`, int64, shape (B,);
            `leaves`, int64, shape (B, s**L); `index`, the argument, int64, shape (B,); `sample`,
            the index without copies, int64, shape (B,); `source`, k G + g for copy k of grammar g,
            int64, shape ().
        """
        num_each = self.label.shape[1]
        source = int(index[0]) // num_each if len(index) else 0
        assert (index // num_each == source).all(), "a batch has samples of one grammar"
        rows = index - source * num_each
        grammar = source % len(self.grammars)
        leaves = self.leaves[grammar][rows].long()
        return {
            "x": whitened_one_hot(leaves, self.grammars[grammar].num_features),
            "label": self.label[grammar, rows].long(),
            "leaves": leaves,
            "index": index,
            "sample": rows + grammar * num_each,
            "source": torch.tensor(source),
        }


def _radices(rhm: RandomHierarchyModel) -> list[int]:
    """Return the number of choices of the class and of each rule that derives a datum."""
    return [rhm.num_classes] + [rhm.num_synonyms] * rhm.num_choices


def _leaf_type(rhm: RandomHierarchyModel) -> torch.dtype:
    return torch.uint8 if rhm.num_features <= 256 else torch.int64


class RHMDataModule(SplitDataModule):
    """Disjoint training, validation, test and prediction data.

    All are drawn uniformly without replacement from the data of the grammar, in this order. The
    training set therefore depends on (seed, num_train) only, and a later run with the same two
    holds out only data on which a network was not trained. Batches are those of `RHMDataset`,
    planned by `PlannedBatches`. For an ensemble, the numbers apply to each grammar, and each batch
    has data of one grammar.

    Args:
        rhm: The grammar, or an ensemble of grammars.
        num_train: Number of training samples; the set is fixed, as in the paper. To analyze a
            trained network, give the number that it was trained on; otherwise training samples
            are counted as held out. A list, ascending, for a task that trains one network per
            entry, such as `DenoisingTask`: the training sets are nested, the first of one fixed
            order, and each is the one that a run with its number alone has.
        num_val: Number of validation samples.
        num_test: Number of test samples; by default also the reference set for statistics of
            activations.
        num_predict: Number of held-out samples on which `lit-hier predict` runs forward-backward.
        batch_size: Samples per training step, over all processes.
        eval_batch_size: Samples per batch in validation, test and prediction.
        seed: Seed of the data and of the shuffles.

    Raises:
        InputError: A number is too small, the grammar has fewer data than the splits need, or the
            data or a batch would not fit into the machine's memory.
    """

    def __init__(
        self,
        rhm: Grammars,
        num_train: int | list[int] = 60_000,
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
        untrained = num_train in (0, [0])
        self.num_train_list = [0] if untrained else list(nested_numbers(num_train))
        self.sizes: dict[Split, int] = {
            "train": self.num_train_list[-1],
            "val": num_val,
            "test": num_test,
            "predict": num_predict,
        }
        for split, size in self.sizes.items():
            least = 1 if split == "predict" else 0
            if size < least:
                raise InputError(f"num_{split} is {size}; give at least {least}")
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        num = sum(self.sizes.values())
        numbers = " + ".join(f"num_{split}" for split in self.sizes)
        for grammar in self.grammars:
            if num > count_words(_radices(grammar)):
                raise InputError(
                    f"{numbers} = {num}, but {grammar} has only {grammar.num_data} data, too few"
                    " for disjoint splits; give smaller numbers or a larger num_synonyms,"
                    " tuple_size or num_layers"
                )
        # A datum is drawn twice as its choices of rules, then kept as its leaves.
        each = [_leaf_type(grammar).itemsize + 2 for grammar in self.grammars]
        leaves = [grammar.num_leaves for grammar in self.grammars]
        check_memory(
            num * sum(map(operator.mul, each, leaves)),
            f"{numbers} = {num} data of up to {max(leaves)} leaves",
            "give smaller numbers or a smaller num_layers",
        )
        batch = min(max(batch_size, eval_batch_size), num)
        symbols = max(grammar.num_features * grammar.num_leaves for grammar in self.grammars)
        check_memory(
            4 * batch * symbols,
            f"batches of {batch} data with {symbols} numbers each",
            "give a smaller eval_batch_size and batch_size",
        )
        if seed < 0:
            raise InputError(f"seed is {seed}; give at least 0")

    @property
    def num_classes(self) -> int:
        """Number of classes, n, of the first grammar."""
        return self.grammars[0].num_classes

    @property
    def training_leaves(self) -> Tensor:
        """Leaves of the training data of the first grammar, in order, once they are drawn.

        A training set of `num_train` data has the first ones. Integers, shape (data, s**L).
        """
        dataset = self._splits["train"]
        assert isinstance(dataset, RHMDataset)
        return dataset.leaves[0]

    @property
    def training_set(self) -> str:
        """One line with everything that determines the training set."""
        if len(self.grammars) > 1:
            return f"{len(self.grammars)} grammars"
        described = self.grammars[0].description
        return f"{described}, num_train={self.sizes['train']}, seed={self.seed}"

    def setup(self, stage: str | None = None) -> None:
        """Draw all splits; a second call does nothing."""
        if self._splits:
            return
        sizes = list(self.sizes.values())
        drawn = [self._draw(index) for index in range(len(self.grammars))]
        leaves = zip(*(x.split(sizes) for x, _ in drawn), strict=True)
        labels = zip(*(y.split(sizes) for _, y in drawn), strict=True)
        self._splits = {
            split: RHMDataset(self.grammars, x, torch.stack(y))
            for split, x, y in zip(self.sizes, leaves, labels, strict=True)
        }

    def _draw(self, index: int) -> tuple[Tensor, Tensor]:
        """Draw leaves and classes of one grammar for all splits."""
        rhm = self.grammars[index]
        words = sample_distinct_words(
            np.random.default_rng([self.seed, index]),
            sum(self.sizes.values()),
            _radices(rhm),
            what="data",
        )
        label = torch.from_numpy(words[:, 0].astype(np.int64))
        dtype = _leaf_type(rhm)
        leaves = torch.empty(len(words), rhm.num_leaves, dtype=dtype)
        size = max(1, min(_CHUNK_SIZE, _CHUNK_NUMBERS // rhm.num_leaves))
        for start in range(0, len(words), size):
            part = slice(start, start + size)
            choices = torch.from_numpy(words[part, 1:].astype(np.int64))
            leaves[part] = rhm.derive(label[part], choices)[0].to(dtype)
        return leaves, label

    def _check_split(self, split: Split) -> None:
        if not self.sizes[split]:
            raise InputError(f"num_{split} is 0; give at least 1")
        if split == "train" and len(self.grammars) > 1:
            raise InputError(f"rhm: give one grammar to train a network, not {self.rhm}")

    def _dataloader(self, split: Split) -> DataLoader[Batch]:
        self._check_split(split)
        return super()._dataloader(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training data, reshuffled in each epoch.

        For a task that trains a network for each entry of `num_train`, a batch is a list with the
        batch of each network, see `NestedBatches`.

        Raises:
            InputError: `num_train` has several entries, but the model trains one network.
        """
        module = None if self.trainer is None else self.trainer.lightning_module
        if not getattr(module, "is_nested", False):
            if len(self.num_train_list) > 1:
                raise InputError(
                    f"num_train is {self.num_train_list}, but {type(module).__name__} trains one"
                    " network; give one number"
                )
            return super().train_dataloader()
        self._check_split("train")
        return planned_loader(
            self.trainer,
            self._splits["train"],
            self.batch_size,
            num_train=self.num_train_list,
            shuffle_seed=self.seed,
        )

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Held-out data for forward-backward, in order, once for each copy that the sampler takes.

        `index` holds sample indices over all copies, `sample` those within a copy.
        """
        self._check_split("predict")
        model = None if self.trainer is None else self.trainer.lightning_module
        copies = getattr(model, "copies", 1)
        data = self._splits["predict"]
        assert isinstance(data, RHMDataset)
        return planned_loader(
            self.trainer,
            RHMDataset(data.grammars, data.leaves, data.label, copies),
            self.eval_batch_size,
            limited=True,
            size_name="eval_batch_size",
            num_blocks=self.num_blocks * copies,
        )
