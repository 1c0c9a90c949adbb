"""Training a network to classify data of the Random Hierarchy Model."""

import torch
from pytorch_lightning.cli import OptimizerCallable

from lit_hier.modules.classification import ClassificationTask
from lit_hier.nn import HierarchicalCNN


class RHMClassifier(ClassificationTask):
    """A `ClassificationTask` of a `HierarchicalCNN` (Section 5).

    Args:
        num_features: v; the command line takes this and the next three from the grammar.
        num_classes: n, at least 2.
        tuple_size: s.
        num_layers: L.
        width: Channels of every hidden layer.
        optimizer: Any optimizer of torch, Adam by default.
        trained_on: The training set, recorded with the weights; the command line takes it from the
            data module (`RHMDataModule.training_set`).

    Raises:
        InputError: `num_classes`, `num_layers` or `width` is out of range.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        tuple_size: int,
        num_layers: int,
        width: int = 128,
        optimizer: OptimizerCallable = torch.optim.Adam,
        trained_on: str = "",
    ) -> None:
        network = HierarchicalCNN(num_features, num_classes, tuple_size, num_layers, width)
        super().__init__(network, num_classes, optimizer, trained_on)
