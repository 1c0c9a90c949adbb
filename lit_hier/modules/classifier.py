"""What the training of all classifiers shares."""

from abc import ABC, abstractmethod
from typing import Any

from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_hier.checkpoints import check_training_set
from lit_hier.errors import InputError
from lit_hier.modules.learner import Learner, as_weight


class Classifier(Learner, ABC):
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
        super().__init__(optimizer)
        self.network = network
        self.num_classes = num_classes
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = self.train_accuracy.clone()
        self.test_accuracy = self.train_accuracy.clone()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Classify."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained on other data than those at hand.

        Raises:
            InputError: Checkpoint and data both say what they are, and not the same.
        """
        trained_on = checkpoint.get("hyper_parameters", {}).get("trained_on", "")
        check_training_set(trained_on, self.hparams["trained_on"], "ckpt_path")

    def _step(self, batch: dict[str, Tensor], stage: str, accuracy: Metric) -> Tensor:
        """Log a batch; give its cross-entropy, summed."""
        logits, label = self(batch["x"]), batch["label"]
        try:
            summed = cross_entropy(logits, label, reduction="sum")
        except IndexError as error:
            if (label < 0).any():
                raise InputError("data: an image has no class, and cannot be learnt") from error
            raise InputError(
                f"num_classes is {self.num_classes}, but a label is {int(label.max())}; give the"
                " number of the data's classes"
            ) from error
        if len(label):  # a process without work has nothing to count
            accuracy.update(logits, label)
        self.log_dict(
            {f"{stage}/loss": summed / max(len(label), 1), f"{stage}/accuracy": accuracy},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            sync_dist=True,
            batch_size=as_weight(len(label)),
        )
        return summed

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a training batch, nats."""
        return self.step_loss(self._step(batch, "train", self.train_accuracy), len(batch["label"]))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on validation data."""
        self._step(batch, "val", self.val_accuracy)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on test data."""
        self._step(batch, "test", self.test_accuracy)
