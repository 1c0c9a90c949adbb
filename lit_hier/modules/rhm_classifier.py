"""Training a network to tell the classes of the Random Hierarchy Model."""

from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_hier.checkpoints import check_training_set
from lit_hier.modules.optimizer import make_optimizer
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
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.network = HierarchicalCNN(num_features, num_classes, tuple_size, num_layers, width)
        self.optimizer = optimizer
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = self.train_accuracy.clone()
        self.test_accuracy = self.train_accuracy.clone()

    def forward(self, x: Tensor) -> Tensor:
        """Classify: see `HierarchicalCNN.forward`."""
        return cast("Tensor", self.network(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer that the config names.

        Raises:
            InputError: Its arguments are out of range.
        """
        return make_optimizer(self.optimizer, self.parameters())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained on other data than those at hand.

        Raises:
            InputError: Checkpoint and data both say what they are, and not the same.
        """
        trained_on = checkpoint.get("hyper_parameters", {}).get("trained_on", "")
        check_training_set(trained_on, self.hparams["trained_on"], "ckpt_path")

    def _step(self, batch: dict[str, Tensor], stage: str, accuracy: Metric) -> Tensor:
        logits, label = self(batch["x"]), batch["label"]
        loss = cross_entropy(logits, label)
        accuracy(logits, label)
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/accuracy": accuracy},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            sync_dist=True,
            batch_size=len(label),
        )
        return loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a training batch, nats."""
        return self._step(batch, "train", self.train_accuracy)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on validation data."""
        self._step(batch, "val", self.val_accuracy)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on test data."""
        self._step(batch, "test", self.test_accuracy)
