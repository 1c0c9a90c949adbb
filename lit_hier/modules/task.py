"""Base class of the modules that train a network."""

from abc import ABC
from collections.abc import Sequence
from typing import Any, Final, Literal, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import Metric

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_record, write_record

Stage = Literal["train", "val", "test"]
_STAGES: Final[tuple[Stage, ...]] = ("train", "val", "test")
_Group = tuple[list[Tensor], list[Tensor]]


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

    averaged: AveragedModel
    is_nested = False
    """Whether a training batch is a list with a batch for each of several networks."""

    def __init__(
        self, optimizer: OptimizerCallable, lines: Sequence[str] = ("",), **metrics: Metric
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.lines = tuple(lines)
        self._averaged_network: list[nn.Module] = []
        self._averaged_groups: list[_Group] = []
        self._num_averaged: int | None = None
        # Lightning's own averages cost a tenth of a small network's step.
        self.metrics = nn.ModuleDict()
        for stage in _STAGES:
            for line in self.lines:
                self.metrics[f"{stage}/loss{line}"] = _SampleMean()
                for name, metric in metrics.items():
                    self.metrics[f"{stage}/{name}{line}"] = metric.clone()

    def average_weights(self, network: nn.Module, decay: float) -> None:
        """Average the weights of a network from now on, after each step of the optimizer.

        Sets `averaged`, whose `module` is the averaged network.

        Args:
            network: The network.
            decay: Decay of the exponential moving average, in [0, 1), at step k at most
                (1 + k)/(10 + k); 0 copies the weights.

        Raises:
            InputError: The decay is out of range.
        """
        if not 0 <= decay < 1:
            raise InputError(f"ema_decay is {decay}; give at least 0 and less than 1")

        def update(averages: Any, present: Any, num: Any) -> None:
            # At first over a tenth of the steps so far, to forget the initial weights.
            get_ema_multi_avg_fn(min(decay, (1 + num) / (10 + num)))(averages, present, num)

        self._averaged_network = [network]  # not registered as a module once more
        self.averaged = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
        self.averaged.requires_grad_(False)

    def on_train_start(self) -> None:
        """List the parameters to average, once: to search for them takes as long as a layer."""
        self._num_averaged = None
        self._averaged_groups = [
            group
            for network in self._averaged_network
            if next(network.buffers(), None) is None  # buffers may be replaced at any step
            for group in self._group(network)
        ]

    def _group(self, network: nn.Module) -> list[_Group]:
        """Return the averages and the network's parameters and buffers, by their data type."""
        averages, present = (
            [*part.parameters(), *part.buffers()] for part in (self.averaged.module, network)
        )
        groups: dict[torch.dtype, _Group] = {}
        for average, tensor in zip(averages, present, strict=True):
            group = groups.setdefault(tensor.dtype, ([], []))
            group[0].append(average)
            group[1].append(tensor)
        return list(groups.values())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights and their average, before a checkpoint can be written."""
        super().optimizer_step(*args, **kwargs)
        for network in self._averaged_network:
            average: Any = self.averaged.multi_avg_fn
            if self._num_averaged is None:  # counted here: reading it waits for a GPU
                self._num_averaged = int(self.averaged.n_averaged)
            if self._num_averaged:
                for averages, present in self._averaged_groups or self._group(network):
                    average(averages, present, self._num_averaged)
                self.averaged.n_averaged += 1
            else:
                self.averaged.update_parameters(network)
            self._num_averaged += 1

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
        if self.trainer.world_size == 1:
            return total / max(num_samples, 1)
        local = torch.full((), float(num_samples), device=total.device)
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
