"""What all training here shares."""

from abc import ABC
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from lit_hier.errors import InputError


class Learner(LightningModule, ABC):
    """A module that learns; what derives from it logs `train/loss` over each epoch.

    Numbers do not depend on how many processes share a step, but for rounding.

    Args:
        optimizer: Any optimizer of torch.
    """

    def __init__(self, optimizer: OptimizerCallable) -> None:
        super().__init__()
        self.optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer that the config names.

        Raises:
            InputError: Its arguments are out of range.
        """
        learnt = (x for x in self.parameters() if x.requires_grad)
        try:
            return self.optimizer(learnt)
        except ValueError as error:
            raise InputError(f"optimizer: {error}") from error

    def step_loss(self, summed: Tensor, num: int) -> Tensor:
        """Give the loss whose gradient, averaged over processes, is that of the step's mean.

        Args:
            summed: The loss summed over this process's samples of the step, shape ().
            num: How many these are; it may be 0.
        """
        everywhere = torch.tensor(float(num), device=summed.device)
        total = self.trainer.strategy.reduce(everywhere, reduce_op="sum")
        return summed * self.trainer.world_size / total

    def on_train_epoch_end(self) -> None:
        """Stop before weights are kept that are no numbers.

        Raises:
            InputError: The epoch's loss is not finite.
        """
        loss = self.trainer.callback_metrics["train/loss"]
        if not loss.isfinite():
            raise InputError(
                f"train/loss is {float(loss)} in epoch {self.current_epoch}; take a smaller"
                " learning rate or another trainer.precision; nothing was kept of this epoch"
            )


def as_weight(num: int) -> Any:
    """Give a number of samples as Lightning's `batch_size` of what is logged.

    As a whole number it would be averaged over processes, and rounded down.
    """
    return float(num)
