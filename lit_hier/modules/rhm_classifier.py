"""Training a network to tell the classes of the Random Hierarchy Model."""

from typing import cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lit_hier.nn import HierarchicalCNN


class RHMClassifier(LightningModule):
    """A `HierarchicalCNN` and its training (Section 5).

    Logs `train/loss`, `train/accuracy` (over the epoch, while the network learns), `val/loss`,
    `val/accuracy`, `test/loss`, `test/accuracy`. To stop at interpolation, let an `EarlyStopping`
    monitor `train/accuracy`.

    Args:
        num_features: v; the command line takes this and the next three from the grammar.
        num_classes: n.
        tuple_size: s.
        num_layers: L.
        width: Channels of every hidden layer.
        optimizer: Any optimizer of torch, Adam by default.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        tuple_size: int,
        num_layers: int,
        width: int = 128,
        optimizer: OptimizerCallable = torch.optim.Adam,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.network = HierarchicalCNN(num_features, num_classes, tuple_size, num_layers, width)
        self.optimizer = optimizer
        self.accuracy = torch.nn.ModuleDict(
            {f"{stage}_": MulticlassAccuracy(num_classes, average="micro")
             for stage in ("train", "val", "test")}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Classify: see `HierarchicalCNN.forward`."""
        return cast("Tensor", self.network(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer that the config names."""
        return self.optimizer(self.parameters())

    def _step(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        logits, label = self(batch["x"]), batch["label"]
        loss = cross_entropy(logits, label)
        accuracy = self.accuracy[f"{stage}_"]
        accuracy(logits, label)
        size = len(label)
        self.log(f"{stage}/loss", loss, batch_size=size, on_epoch=True, on_step=False)
        self.log(
            f"{stage}/accuracy", accuracy, batch_size=size, on_epoch=True, on_step=False,
            prog_bar=True,
        )
        return loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a training batch, nats."""
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on validation data."""
        self._step(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on test data."""
        self._step(batch, "test")
