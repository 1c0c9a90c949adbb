"""Training a network to classify."""

from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import write_record
from lit_hier.modules.task import Stage, Task
from lit_hier.nn.evaluation import evaluate
from lit_hier.nn.trained import check_training_set, describe_network, training_set_of


class ClassificationTask(Task):
    """Trains any network to classify, by cross-entropy.

    Logs `train/loss`, `train/accuracy` (over the epoch, while the network is trained), `val/loss`,
    `val/accuracy`, `test/loss`, `test/accuracy`; losses in nats. To train to interpolation, use
    `Interpolation`.

    `TrainedNetwork` restores the network from a checkpoint.

    Args:
        network: Maps `x` of a batch, (B, ...), to logits (B, num_classes).
        num_classes: Number of classes, at least 2; the command line takes it from the data module.
        optimizer: Any optimizer of torch, Adam by default.
        trained_on: The training set, recorded with the weights; the command line takes it from the
            data module (`RHMDataModule.training_set`).

    Attributes:
        training_errors: Misclassified training data with the present weights, and the number of
            all; None until `Interpolation` counts them. Recorded in checkpoints.

    Raises:
        InputError: `num_classes` is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable = torch.optim.Adam,
        trained_on: str = "",
    ) -> None:
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}; give at least 2")
        super().__init__(optimizer, accuracy=MulticlassAccuracy(num_classes, average="micro"))
        self.save_hyperparameters(ignore=["network", "optimizer"])
        self.network = network
        self.num_classes = num_classes
        self.trained_on = trained_on
        self.training_errors: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (B, num_classes), for x, shape (B, ...)."""
        logits: Tensor = self.network(x)
        return logits

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the format, the network, its training set and errors on it, as plain values."""
        write_record(
            checkpoint,
            **describe_network(self.network),
            trained_on=self.trained_on,
            training_errors=self.training_errors and list(self.training_errors),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject weights that were trained on another training set than that of the data.

        Raises:
            InputError: Both are named and differ, or the format is newer than this version reads.
        """
        trained_on = training_set_of(checkpoint, "ckpt_path: the checkpoint")
        check_training_set(trained_on, self.trained_on, "ckpt_path")

    def _step(self, batch: dict[str, Tensor], stage: Stage) -> Tensor:
        """Update a stage's metrics; return the cross-entropy summed over the batch, nats."""
        logits, label = self(batch["x"]), batch["label"]
        if logits.shape != (len(label), self.num_classes):
            raise InputError(
                f"network: {type(self.network).__name__} returns shape {tuple(logits.shape)}, not"
                f" ({len(label)}, {self.num_classes}); give a network whose outputs are the logits"
                " of num_classes classes"
            )
        try:
            total = cross_entropy(logits, label, reduction="sum")
        except IndexError as error:
            if (label < 0).any():
                raise InputError("data: an image has no class; train on labeled images") from error
            raise InputError(
                f"num_classes is {self.num_classes}, but a label is {int(label.max())}; give the"
                " number of the data's classes"
            ) from error
        if len(label):  # a process may have no samples of a batch
            self.metric(f"{stage}/accuracy").update(logits, label)
        self.update_loss(stage, total, len(label))
        return total

    def count_errors(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return how many data of a batch the network misclassifies, and how many there are.

        The network runs as analyses run it, see `evaluate`, in the mode that it is in.
        """
        label = batch["label"]
        wrong = evaluate(self.network, batch["x"]).argmax(-1) != label
        return wrong.sum(), label.new_full((), len(label))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of a training batch, shape (), nats."""
        self.training_errors = None
        return self.scale_loss(self._step(batch, "train"), len(batch["label"]))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update loss and accuracy on validation data."""
        self._step(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update loss and accuracy on test data."""
        self._step(batch, "test")
