"""What the training of all classifiers shares."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_hier.checkpoints import check_training_set
from lit_hier.errors import InputError
from lit_hier.modules.optimizer import make_optimizer


class Classifier(LightningModule, ABC):
    """A network that learns to tell classes, by cross-entropy.

    Logs `train/loss`, `train/accuracy` (over the epoch, while the network learns), `val/loss`,
    `val/accuracy`, `test/loss`, `test/accuracy`; losses in nats. To stop at interpolation, let an
    `EarlyStopping` monitor `train/accuracy`.

    What derives from it saves its hyperparameters, `trained_on` among them.

    Args:
        network: Takes `x` of a batch and gives logits (B, num_classes).
        num_classes: Classes.
        optimizer: Any optimizer of torch.
    """

    def __init__(self, network: nn.Module, num_classes: int, optimizer: OptimizerCallable) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = self.train_accuracy.clone()
        self.test_accuracy = self.train_accuracy.clone()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Classify."""

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
        try:
            loss = cross_entropy(logits, label)
        except IndexError as error:
            if (label < 0).any():
                raise InputError("data: an image has no class, and cannot be learnt") from error
            raise InputError(
                f"num_classes is {self.num_classes}, but a label is {int(label.max())}; give the"
                " number of the data's classes"
            ) from error
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
