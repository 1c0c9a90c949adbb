"""Base class of the modules that train a network."""

from abc import ABC
from collections.abc import Sequence
from typing import Any, Final, Literal, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_record, write_record

Stage = Literal["train", "val", "test"]
_STAGES: Final[tuple[Stage, ...]] = ("train", "val", "test")


class _SampleMean(Metric):
    """A mean over samples that propagates NaN; torchmetrics' own drops NaN or the weights."""

    full_state_update = False
    total: Tensor
    num_samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "num_samples"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, total: Tensor, num_samples: int) -> None:
        """Add a sum over samples, shape ()."""
        self.total += total.detach()
        self.num_samples += num_samples

    def compute(self) -> Tensor:
        """Return the mean, shape ()."""
        return self.total / self.num_samples


class Task(LightningModule, ABC):
    """A module that trains a network and logs the mean loss and other metrics of each epoch.

    Results do not depend on how many processes share a step, except for rounding.

    Args:
        optimizer: Any optimizer of torch.
        lines: What the tags of each network end with, where several are trained at once.
        **metrics: Metrics besides the loss, by name; every stage and every line has its own copy.
    """

    is_nested = False
    """Whether a training batch is a list with a batch for each of several networks."""

    def __init__(
        self, optimizer: OptimizerCallable, lines: Sequence[str] = ("",), **metrics: Metric
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.lines = tuple(lines)
        # Lightning's own averages cost a tenth of a small network's step.
        self.metrics = nn.ModuleDict()
        for stage in _STAGES:
            for line in self.lines:
                self.metrics[f"{stage}/loss{line}"] = _SampleMean()
                for name, metric in metrics.items():
                    self.metrics[f"{stage}/{name}{line}"] = metric.clone()

    def metric(self, name: str) -> Metric:
        """Return a metric by its tag, such as `train/loss`; it is reset after every epoch."""
        return cast("Metric", self.metrics[name])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Create the optimizer of the parameters that are trained.

        Raises:
            InputError: An argument of the optimizer is out of range.
        """
        trained = (x for x in self.parameters() if x.requires_grad)
        try:
            return self.optimizer(trained)
        except ValueError as error:
            raise InputError(f"optimizer: {error}") from error

    def update_loss(self, stage: Stage, total: Tensor, num_samples: int, line: str = "") -> None:
        """Add a batch to the epoch's mean loss.

        Args:
            stage: The stage whose mean it enters.
            total: The loss summed over this process's samples of the batch, shape ().
            num_samples: Their number, which may be 0.
            line: The network, an entry of `lines`.
        """
        self.metric(f"{stage}/loss{line}").update(total, num_samples)

    def scale_loss(self, total: Tensor, num_samples: int) -> Tensor:
        """Return a loss whose gradient, averaged over processes, is that of the step's mean loss.

        Args:
            total: The loss summed over this process's samples of the step, shape ().
            num_samples: Their number, which may be 0.

        Returns:
            The scaled loss, shape ().
        """
        local = torch.tensor(float(num_samples), device=total.device)
        num_global = self.trainer.strategy.reduce(local, reduce_op="sum")
        return total * self.trainer.world_size / num_global.clamp(min=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the format of the checkpoint."""
        write_record(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the format of the checkpoint.

        Raises:
            InputError: It is newer than this version reads.
        """
        read_record(checkpoint, "ckpt_path: the checkpoint")

    def _log_epoch(self, stage: Stage) -> None:
        """Log the epoch's metrics over all processes and reset them."""
        for name in self.metrics:
            if name.startswith(f"{stage}/"):
                metric = self.metric(name)
                in_bar = len(self.lines) == 1  # of more, there is no room
                self.log(name, metric.compute(), prog_bar=in_bar, sync_dist=True)
                metric.reset()

    def on_train_epoch_end(self) -> None:
        """Log; stop before a checkpoint of non-finite weights is written.

        Raises:
            InputError: The epoch's loss is not finite.
        """
        tags = [f"train/loss{line}" for line in self.lines]
        losses = {tag: self.metric(tag).compute() for tag in tags}
        self._log_epoch("train")
        for tag, loss in losses.items():
            if not loss.isfinite():
                raise InputError(
                    f"{tag} is {float(loss)} in epoch {self.current_epoch}; choose a smaller"
                    " learning rate or another trainer.precision; this epoch was not saved"
                )

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's metrics."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the epoch's metrics."""
        self._log_epoch("test")
