"""Data from a Gaussian field or mixture: distributions without a hierarchy."""

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import Batch, planned_loader
from lit_hier.errors import InputError
from lit_hier.gaussian import Distribution
from lit_hier.streams import Purpose, uniform


class GaussianDataset(Dataset[Batch]):
    """Data drawn when a batch is loaded; an item is a whole batch.

    Args:
        distribution: Distribution of the data.
        num_samples: Number of samples.
        seed: Seed of the data.
        first: Offset of the first datum in the stream of the seed.
    """

    def __init__(
        self, distribution: Distribution, num_samples: int, seed: int, first: int = 0
    ) -> None:
        self.distribution = distribution
        self.num_samples = num_samples
        self.seed = seed
        self.first = first

    def __len__(self) -> int:
        """Return the number of data."""
        return self.num_samples

    def __getitem__(self, index: Tensor) -> Batch:
        """Return the batch of the given sample indices.

        Returns:
            `x`, float32, shape (B, 1, *spatial); `label`, int64, shape (B,); `index`, the
            argument, int64, shape (B,).
        """
        number = index + self.first
        draws = uniform(self.seed, Purpose.DATA, number, 0.0, self.distribution.num_draws)
        x, label = self.distribution.sample(draws)
        return {"x": x.float(), "label": label, "index": index}


class GaussianDataModule(LightningDataModule):
    """Data for forward-backward, and a reference set for statistics of activations.

    Args:
        distribution: A `GaussianRandomField` or a `GaussianMixture`.
        num_test: Number of samples in the reference set, the test split.
        num_predict: Number of samples on which `lit-hier predict` runs forward-backward.
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
        """Data for forward-backward, in order; `index` holds sample indices."""
        return self._loader(self.predict_set, limited=True)
