"""What data modules share that hold their splits in memory."""

from typing import Literal

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import Batch, planned_loader

Split = Literal["train", "val", "test", "predict"]


class SplitDataModule(LightningDataModule):
    """Loads each split as `PlannedBatches` plans; a subclass fills `_splits` in `setup`.

    Args:
        batch_size: Samples per training step, all processes together.
        eval_batch_size: Samples per batch elsewhere.
        seed: Seed of the shuffles in training.
        num_blocks: Blocks of equally many samples in each split; no batch has samples of two.
        num_workers: Processes that load batches ahead; with 0, each is loaded as it is needed.
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

    def fingerprint(self, split: Split) -> str | None:
        """Tell apart what decides a split's batches, as a hash in hex; `None` if nothing does.

        Known once `setup` has made the split.
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
