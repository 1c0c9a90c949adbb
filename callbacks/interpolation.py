"""Training to interpolation: until every training datum is classified right."""

import logging
from typing import Any, Final

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from lit_hier.data.splits import SplitDataModule
from lit_hier.errors import InputError
from lit_hier.modules import ClassificationTask

_LOG: Final = logging.getLogger("lit_hier")


class Interpolation(Callback):
    """Stops training once no datum of the whole training set is misclassified (Section 5).

    `train/accuracy` is measured while the weights change. Here the errors are counted at the end
    of an epoch, with the weights of that moment, over every datum once, in evaluation mode and
    without autocast, as a later analysis runs the network. A count costs about a third of an
    epoch, so it is made only after epochs whose `train/accuracy` reaches `threshold`, and after
    the last one. Random transforms of the data are drawn again.

    With errors left, training goes on until the trainer's own limit, such as `max_epochs`: at
    `factor` times the learning rate, as at a constant one the last few errors come and go. At the
    end one line says how many of the data are misclassified: a warning if there are any.

    Writes no file of its own. The checkpoint records the count (`TrainedNetwork.training_errors`).
    Logs to TensorBoard `train/errors`, the number of misclassified training data, at each count.

    Args:
        threshold: The `train/accuracy` of an epoch from which errors are counted, 0 to 1.
        factor: What the learning rate is multiplied with after a count that leaves errors, above 0
            and at most 1.

    Raises:
        InputError: The threshold or the factor is out of range; at the start, the model is not a
            `ClassificationTask` or its data are not of a data module of this package.
    """

    def __init__(self, threshold: float = 0.99, factor: float = 1.0) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; give a share of the data, 0 to 1")
        if not 0 < factor <= 1:
            raise InputError(f"factor is {factor}; give a number above 0, at most 1")
        self.threshold = threshold
        self.factor = factor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the model and the data."""
        if stage != "fit":
            return
        if not isinstance(pl_module, ClassificationTask):
            raise InputError(
                f"model: Interpolation counts the errors of classifiers, not of"
                f" {type(pl_module).__name__}; use it with a ClassificationTask"
            )
        if not isinstance(_datamodule(trainer), SplitDataModule):
            raise InputError(
                "data: Interpolation needs a data module that lists the training set once, such"
                " as RHMDataModule; stop by EarlyStopping on train/accuracy instead"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the errors if there may be none, or if this is the last epoch; stop if so."""
        assert isinstance(pl_module, ClassificationTask)
        accuracy = float(pl_module.metric("train/accuracy").compute())
        dry_run = getattr(trainer, "fast_dev_run", False)
        if dry_run or not (accuracy >= self.threshold or _is_last(trainer)):
            return
        errors, _ = pl_module.training_errors = self._count_errors(trainer, pl_module)
        pl_module.log("train/errors", float(errors), sync_dist=True)
        if not errors:
            trainer.should_stop = True
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= self.factor

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say whether the network interpolates."""
        assert isinstance(pl_module, ClassificationTask)
        if not trainer.is_global_zero:
            return
        if pl_module.training_errors is None:
            _LOG.warning(
                "training set: its errors are not counted, as training ended before an epoch with"
                " train/accuracy of at least %g, or within an epoch: whether the network"
                " interpolates is unknown",
                self.threshold,
            )
            return
        errors, num_train = pl_module.training_errors
        # Counted at the end of an epoch, before Lightning counts that epoch.
        after = f"after epoch {trainer.current_epoch}"
        if errors:
            _LOG.warning(
                "training set: %d of %d data are misclassified %s: the network does not"
                " interpolate; raise trainer.max_epochs or lower the learning rate",
                *(errors, num_train, after),
            )
        else:
            rank_zero_info(f"training set: none of {num_train} data is misclassified {after}")

    @staticmethod
    def _count_errors(trainer: Trainer, task: ClassificationTask) -> tuple[int, int]:
        """Return the number of misclassified training data, and of all, over all processes."""
        counts = torch.zeros(2, dtype=torch.int64, device=task.device)
        modes = {module: module.training for module in task.modules()}
        task.eval()
        for raw in _datamodule(trainer).training_set_dataloader():
            batch = trainer.strategy.batch_to_device(raw, dataloader_idx=0)
            if len(batch["label"]):
                counts += torch.stack(task.count_errors(batch))
        for module, mode in modes.items():
            module.training = mode
        errors, num_train = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        return errors, num_train


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _is_last(trainer: Trainer) -> bool:
    """Tell whether the trainer's limit ends training with this epoch."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return last_epoch or 0 <= steps <= trainer.global_step
