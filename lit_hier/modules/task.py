"""What all training here shares."""

from abc import ABC
from typing import Final, Literal, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from lit_hier.errors import InputError

Stage = Literal["train", "val", "test"]
_STAGES: Final[tuple[Stage, ...]] = ("train", "val", "test")


class _Mean(Metric):
    """A mean over samples, NaN included: torchmetrics' own leaves them out, or forgets weights."""

    full_state_update = False
    summed: Tensor
    num: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("summed", "num"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, summed: Tensor, num: int) -> None:
        """Count samples."""
        self.summed += summed.detach()
        self.num += num

    def compute(self) -> Tensor:
        """Give the mean, shape ()."""
        return self.summed / self.num


class Task(LightningModule, ABC):
    """A module that learns; when an epoch ends it logs the mean loss, and what else it measures.

    Numbers do not depend on how many processes share a step, but for rounding.

    Args:
        optimizer: Any optimizer of torch.
        **metrics: What is measured beside the loss, by name; each stage has its own copy.
    """

    def __init__(self, optimizer: OptimizerCallable, **metrics: Metric) -> None:
        super().__init__()
        self.optimizer = optimizer
        # Lightning's own averages cost a tenth of a small network's step.
        self.metrics = nn.ModuleDict()
        for stage in _STAGES:
            self.metrics[f"{stage}/loss"] = _Mean()
            for name, metric in metrics.items():
                self.metrics[f"{stage}/{name}"] = metric.clone()

    def metric(self, name: str) -> Metric:
        """Give what measures, say, `train/loss`; it is begun anew when an epoch ends."""
        return cast("Metric", self.metrics[name])

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

    def measure(self, stage: Stage, summed: Tensor, num: int) -> None:
        """Count a batch's loss.

        Args:
            stage: Which of the epoch's means it goes into.
            summed: The loss summed over this process's samples of the batch, shape ().
            num: How many these are; it may be 0.
        """
        self.metric(f"{stage}/loss").update(summed, num)

    def step_loss(self, summed: Tensor, num: int) -> Tensor:
        """Give the loss whose gradient, averaged over processes, is that of the step's mean.

        Args:
            summed: As `measure` takes it.
            num: Likewise.
        """
        everywhere = torch.tensor(float(num), device=summed.device)
        total = self.trainer.strategy.reduce(everywhere, reduce_op="sum")
        return summed * self.trainer.world_size / total

    def _log_epoch(self, stage: Stage) -> None:
        """Log an epoch's metrics, which are those of all processes."""
        for name in self.metrics:
            if name.startswith(f"{stage}/"):
                metric = self.metric(name)
                self.log(name, metric.compute(), prog_bar=True, sync_dist=True)
                metric.reset()

    def on_train_epoch_end(self) -> None:
        """Log, and stop before weights are kept that are no numbers.

        Raises:
            InputError: The epoch's loss is not finite.
        """
        loss = self.metric("train/loss").compute()
        self._log_epoch("train")
        if not loss.isfinite():
            raise InputError(
                f"train/loss is {float(loss)} in epoch {self.current_epoch}; take a smaller"
                " learning rate or another trainer.precision; nothing was kept of this epoch"
            )

    def on_validation_epoch_end(self) -> None:
        """Log."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log."""
        self._log_epoch("test")
