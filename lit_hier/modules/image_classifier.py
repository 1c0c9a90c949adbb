"""Training a small network to tell the classes of small images."""

from collections.abc import Sequence
from typing import cast

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from lit_hier.modules.classification import ClassificationTask
from lit_hier.nn import ImageCNN


class ImageClassifier(ClassificationTask):
    """An `ImageCNN` and its training.

    Logs `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`, `test/loss`, `test/accuracy`:
    see `ClassificationTask`.

    Args:
        channels: Of an image.
        num_classes: Classes.
        widths: Channels of each layer.
        optimizer: Any optimizer of torch, Adam by default.
        trained_on: What the network is trained on, kept with its weights; the command line takes
            it from the data module (`DigitsDataModule.training_set`).

    Raises:
        InputError: The numbers make no network.
    """

    def __init__(
        self,
        channels: int = 1,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        optimizer: OptimizerCallable = torch.optim.Adam,
        trained_on: str = "",
    ) -> None:
        super().__init__(ImageCNN(channels, num_classes, widths), num_classes, optimizer)
        self.save_hyperparameters(ignore=["optimizer"])

    def forward(self, x: Tensor) -> Tensor:
        """Classify: see `ImageCNN.forward`."""
        return cast("Tensor", self.network(x))
