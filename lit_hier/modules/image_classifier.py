"""Training a small network to classify small images."""

from collections.abc import Sequence

import torch
from pytorch_lightning.cli import OptimizerCallable

from lit_hier.modules.classification import ClassificationTask
from lit_hier.nn import ImageCNN


class ImageClassifier(ClassificationTask):
    """A `ClassificationTask` of an `ImageCNN`.

    Args:
        channels: Channels of an image.
        num_classes: At least 2.
        widths: Channels of each layer.
        optimizer: Any optimizer of torch, Adam by default.
        trained_on: The training set, recorded with the weights; the command line takes it from the
            data module (`DigitsDataModule.training_set`).

    Raises:
        InputError: `channels`, `num_classes` or `widths` is out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        optimizer: OptimizerCallable = torch.optim.Adam,
        trained_on: str = "",
    ) -> None:
        network = ImageCNN(channels, num_classes, widths)
        super().__init__(network, num_classes, optimizer, trained_on)
