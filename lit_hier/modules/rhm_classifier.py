"""Training a network to tell the classes of the Random Hierarchy Model."""

from typing import cast

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from lit_hier.modules.classification import ClassificationTask
from lit_hier.nn import HierarchicalCNN


class RHMClassifier(ClassificationTask):
    """A `HierarchicalCNN` and its training (Section 5).

    Logs `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`, `test/loss`, `test/accuracy`:
    see `ClassificationTask`. To stop at interpolation, let an `EarlyStopping` monitor
    `train/accuracy`.

    Args:
        num_features: v; the command line takes this and the next three from the grammar.
        num_classes: n.
        tuple_size: s.
        num_layers: L.
        width: Channels of every hidden layer.
        optimizer: Any optimizer of torch, Adam by default.
        trained_on: What the network is trained on, kept with its weights; the command line takes
            it from the data module (`RHMDataModule.training_set`).
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
        super().__init__(network, num_classes, optimizer)
        self.save_hyperparameters(ignore=["optimizer"])

    def forward(self, x: Tensor) -> Tensor:
        """Classify: see `HierarchicalCNN.forward`."""
        return cast("Tensor", self.network(x))
