"""The base class of data modules with splits for training, validation, test and prediction."""

from typing import Literal

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import Batch, planned_loader

Split = Literal["train", "val", "test", "predict"]


class SplitDataModule(LightningDataModule):
    """Loads each split in the batches of `PlannedBatches`.

    A subclass fills `_splits` with datasets in `setup` or before.

    Args:
        batch_size: Samples per training step, over all processes.
        eval_batch_size: Samples per batch in validation, test and prediction.
        seed: Seed of the shuffles in training.
        num_blocks: Number of equally large blocks of samples in each split; no batch spans two.
        num_workers: Number of worker processes that load batches; with 0, the main process does.
    """

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        num_blocks: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.num_blocks = num_blocks
        self.num_workers = num_workers
        self._splits: dict[Split, Dataset[Batch]] = {}

    @property
    def model_size(self) -> int | None:
        """Pixels per side of the images of the run's sampler; `None` without one, or unknown."""
        model = None if self.trainer is None else self.trainer.lightning_module
        return getattr(model, "image_size", None)

    def fingerprint(self, split: Split) -> str | None:
        """Return a hash of everything that determines a split's batches.

        It is `None` before `setup` and for a dataset without a fingerprint.
        """
        return getattr(self._splits.get(split), "fingerprint", None)

    def _dataloader(self, split: Split) -> DataLoader[Batch]:
        training = split == "train"
        return planned_loader(
            self.trainer,
            self._splits[split],
            self.batch_size if training else self.eval_batch_size,
            limited=split == "predict",
            num_workers=self.num_workers,
            shuffle_seed=self.seed if training else None,
            size_name="batch_size" if training else "eval_batch_size",
            num_blocks=self.num_blocks,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training data, reshuffled in each epoch."""
        return self._dataloader("train")

    def training_set_dataloader(self) -> DataLoader[Batch]:
        """Training data in order, each datum once, in batches of `eval_batch_size`."""
        size = self.eval_batch_size
        return planned_loader(
            self.trainer, self._splits["train"], size, size_name="eval_batch_size"
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation data, in order."""
        return self._dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test data, in order."""
        return self._dataloader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Held-out data for forward-backward, in order; `index` holds sample indices."""
        return self._dataloader("predict")
