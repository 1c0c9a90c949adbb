"""Data of a distribution without a hierarchy."""

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import Batch, planned_loader
from lit_hier.errors import InputError
from lit_hier.gaussian import Distribution
from lit_hier.streams import Purpose, uniform


class GaussianDataset(Dataset[Batch]):
    """Data made when they are asked for; an item is a whole batch.

    Args:
        distribution: What they are drawn from.
        num_samples: How many.
        seed: Their seed.
        first: Number of the first one among all that the seed has.
    """

    def __init__(
        self, distribution: Distribution, num_samples: int, seed: int, first: int = 0
    ) -> None:
        self.distribution = distribution
        self.num_samples = num_samples
        self.seed = seed
        self.first = first

    def __len__(self) -> int:
        """Data."""
        return self.num_samples

    def __getitem__(self, index: Tensor) -> Batch:
        """Give a batch.

        Returns:
            `x`, float32, (B, 1, *spatial); `label`, int64, (B,); `index`, the sample indices asked
            for, int64, (B,).
        """
        number = index + self.first
        draws = uniform(self.seed, Purpose.DATA, number, 0.0, self.distribution.num_draws)
        x, label = self.distribution.sample(draws)
        return {"x": x.float(), "label": label, "index": index}


class GaussianDataModule(LightningDataModule):
    """Data to be turned round, and others as the reference set for statistics of activations.

    Args:
        distribution: A `GaussianRandomField` or a `GaussianMixture`.
        num_test: Data of the reference set.
        num_predict: Data that `lit-hier predict` turns round.
        eval_batch_size: Data per batch.
        seed: Seed of the data, 0 to 2^64 - 1.

    Raises:
        InputError: A number is out of range.
    """

    def __init__(
        self,
        distribution: Distribution,
        num_test: int = 1_000,
        num_predict: int = 1_000,
        eval_batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        numbers = {"num_test": num_test, "num_predict": num_predict}
        for name, value in (*numbers.items(), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        if not 0 <= seed < 2**64:
            raise InputError(f"seed is {seed}; give 0 to 2^64 - 1")
        self.distribution = distribution
        self.eval_batch_size = eval_batch_size
        self.predict_set = GaussianDataset(distribution, num_predict, seed)
        self.test_set = GaussianDataset(distribution, num_test, seed, first=num_predict)

    def _loader(self, dataset: GaussianDataset, limited: bool = False) -> DataLoader[Batch]:
        name = "eval_batch_size"
        return planned_loader(
            self.trainer, dataset, self.eval_batch_size, limited=limited, size_name=name
        )

    def test_dataloader(self) -> DataLoader[Batch]:
        """The reference set, in order."""
        return self._loader(self.test_set)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Data to be turned round, in order; an item's index is its sample index."""
        return self._loader(self.predict_set, limited=True)
