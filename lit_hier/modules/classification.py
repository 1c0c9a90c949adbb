"""What the training of all classifiers shares."""

from abc import ABC, abstractmethod
from typing import Any

from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import check_training_set
from lit_hier.modules.task import Stage, Task


class ClassificationTask(Task, ABC):
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
        super().__init__(optimizer, accuracy=MulticlassAccuracy(num_classes, average="micro"))
        self.network = network
        self.num_classes = num_classes

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

    def _step(self, batch: dict[str, Tensor], stage: Stage) -> Tensor:
        """Measure a batch; give its cross-entropy, summed."""
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
            self.metric(f"{stage}/accuracy").update(logits, label)
        self.measure(stage, summed, len(label))
        return summed

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a training batch, nats."""
        return self.step_loss(self._step(batch, "train"), len(batch["label"]))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure loss and accuracy on validation data."""
        self._step(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure loss and accuracy on test data."""
        self._step(batch, "test")
