"""Base class of the modules that train one network for each of several nested training sets."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import numpy as np
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import (
    LRSchedulerConfigType,
    OptimizerLRScheduler,
    OptimizerLRSchedulerConfig,
)
from torch import Tensor, nn
from torchmetrics import Metric

from lit_hier.data.batches import Batch, nested_numbers
from lit_hier.errors import InputError, one_line
from lit_hier.io.checkpoints import read_record, write_record
from lit_hier.modules.task import Stage, Task
from lit_hier.nn.trained import check_training_set, describe_network

_PARTS: Final = ("modules", "parameters", "buffers")


class NestedTask(Task):
    """Trains a network for each entry of `data.num_train`, all in one run and one checkpoint.

    The step's loss is the sum of the networks' mean losses, and one optimizer updates all
    parameters. The networks are independent if it updates each parameter by itself, as those of
    the Adam and SGD families do: the network of P data gets the same initial weights, batches,
    noise and weights as if it were trained alone. Initial weights depend on (network_seed, P)
    only; what a network draws from torch's global generators in training, such as dropout, on
    (network_seed, P), the number of the step's batch and the rank of the process.

    Networks are validated with the exponential moving average of their weights, as analyses run
    them, see `lit_hier.nn.evaluate`. After each validation of `fit`, the weights of a network
    whose `val/loss` is the lowest so far are kept, in `best`. They are what `test` measures.

    Logs `train/loss`, `val/loss` and `test/loss`, and a subclass's metrics likewise; with several
    networks, `train/loss/P=128` and so on for each.

    Args:
        kind: What the checkpoints hold, such as `denoisers`.
        sizes: Sizes of the data, by name, which checkpoints record.
        build: Builds a network, a new one at each call.
        num_train: Training data of each network, ascending.
        optimizer: Any optimizer of torch.
        lr_scheduler: Any scheduler of torch, stepped after each step of the optimizer; None keeps
            the learning rate.
        network_seed: Seed of the initial weights, at least 0.
        ema_decay: Decay of the average of the weights, in [0, 1); 0 keeps the present ones.
        trained_on: The largest training set, recorded with the weights; by default, that of the
            data module in `fit`.
        **metrics: See `Task`.

    Attributes:
        networks: The networks.
        num_train: Training data of each.
        averaged: The average of their weights.
        best: Copies of the average with the lowest validation loss so far.
        best_step: Steps of the optimizer that each copy had; -1 before the first validation.
        best_loss: Its validation loss; infinity before.

    Raises:
        InputError: `num_train`, `network_seed` or `ema_decay` is out of range, or `build` fails or
            returns parts of another network.
    """

    is_nested = True
    best_step: Tensor
    best_loss: Tensor

    def __init__(
        self,
        kind: str,
        sizes: Mapping[str, int],
        build: Callable[[], nn.Module],
        num_train: Sequence[int],
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        network_seed: int = 0,
        ema_decay: float = 0.0,
        trained_on: str = "",
        **metrics: Metric,
    ) -> None:
        num_train = nested_numbers(num_train)
        if network_seed < 0:
            raise InputError(f"network_seed is {network_seed}; give at least 0")
        lines = [f"/P={num}" for num in num_train] if len(num_train) > 1 else [""]
        super().__init__(optimizer, lines, **metrics)
        self.kind = kind
        self.sizes = dict(sizes)
        self.num_train = num_train
        self.lr_scheduler = lr_scheduler
        self.trained_on = trained_on
        # A third word, not 0, so that they differ from the seeds of initial weights.
        self._seeds = [_derive_seed(network_seed, num, 1) for num in num_train]
        self.networks = nn.ModuleList(_build(build, network_seed, num) for num in num_train)
        _check_separate(self.networks)
        self.average_weights(self.networks, ema_decay)
        self.best = copy.deepcopy(self.networks).requires_grad_(False)
        self.register_buffer("best_step", torch.full((len(num_train),), -1))
        self.register_buffer("best_loss", torch.full((len(num_train),), torch.inf))

    @abstractmethod
    def compute_loss(
        self, network: nn.Module, batch: Batch, stage: Stage, line: str
    ) -> tuple[Tensor, int]:
        """Return a network's loss on a batch; update its metrics besides the loss.

        Args:
            network: The network.
            batch: What `prepare` returned.
            stage: Whose metrics are updated.
            line: What the tags of the network's metrics end with.

        Returns:
            The loss summed over samples, or over parts of them, shape (); and their number.
        """

    def prepare(self, batches: Sequence[Batch], stage: Stage) -> Sequence[Batch]:
        """Return batches as `compute_loss` takes them: by default, as they are.

        Args:
            batches: In training, a batch for each network: `epoch` is the network's epoch and
                `num_train` its P. Otherwise, one batch for all networks.
            stage: The stage.
        """
        return batches

    def describe(self) -> dict[str, Any]:
        """Return what checkpoints record besides the networks, as plain values: the sizes."""
        return dict(self.sizes)

    def select_network(self, position: int) -> nn.Module:
        """Return a network with its best weights; before a validation, with their average."""
        chosen = self.best if self.best_step[position] >= 0 else self._averages
        return chosen[position]

    @property
    def _averages(self) -> nn.ModuleList:
        return cast("nn.ModuleList", self.averaged.module)

    def setup(self, stage: str) -> None:
        """Check the data and that the networks stay independent; name the training set.

        Raises:
            InputError: The data are of other training sets, or gradients are clipped by the norm
                over several networks.
        """
        trainer = self.trainer
        if stage == "fit":
            self._check_data(getattr(trainer, "datamodule", None))
        by_norm = str(trainer.gradient_clip_algorithm or "norm") != "value"
        if stage == "fit" and trainer.gradient_clip_val and by_norm and len(self.networks) > 1:
            raise InputError(
                f"trainer.gradient_clip_val is {trainer.gradient_clip_val}, by the norm over all"
                f" {len(self.networks)} networks, which would couple them; give"
                " trainer.gradient_clip_algorithm=value or one number data.num_train"
            )

    def _check_data(self, data: Any) -> None:
        numbers = getattr(data, "num_train_list", list(self.num_train))
        if list(numbers) != list(self.num_train):
            raise InputError(
                f"num_train is {list(self.num_train)}, but that of the data is {list(numbers)};"
                " give both the same numbers"
            )
        training_set = str(getattr(data, "training_set", ""))
        check_training_set(self.trained_on, training_set, "trained_on")
        self.trained_on = self.trained_on or training_set

    def configure_optimizers(self) -> OptimizerLRScheduler:  # type: ignore[override]
        """Create the optimizer of all networks, and its scheduler.

        Raises:
            InputError: An argument of one of them is out of range, or the optimizer couples
                several networks.
        """
        optimizer = super().configure_optimizers()
        if isinstance(optimizer, torch.optim.LBFGS) and len(self.networks) > 1:
            raise InputError(
                f"optimizer: LBFGS couples the {len(self.networks)} networks by its line"
                " search; give one that updates each parameter by itself, such as AdamW, or one"
                " number data.num_train"
            )
        if self.lr_scheduler is None:
            return optimizer
        try:
            scheduler = self.lr_scheduler(optimizer)
        except ValueError as error:
            raise InputError(f"lr_scheduler: {error}") from error
        stepped: LRSchedulerConfigType = {"scheduler": scheduler, "interval": "step"}
        return OptimizerLRSchedulerConfig(optimizer=optimizer, lr_scheduler=stepped)

    def training_step(self, batch: list[Batch], batch_idx: int) -> Tensor:
        """Return the sum of the networks' mean losses, shape ().

        Raises:
            InputError: The batch does not have a batch for each network.
        """
        if not isinstance(batch, list) or len(batch) != len(self.networks):
            raise InputError(
                f"data: a step of {type(self).__name__} takes a list with a batch for each of its"
                f" {len(self.networks)} networks; give an RHMDataModule"
            )
        parts = [
            {**part, "num_train": num} for part, num in zip(batch, self.num_train, strict=True)
        ]
        step = (self.global_rank << 40) + self.trainer.fit_loop.total_batch_idx
        losses: list[Tensor] = []
        with _forked(self.device):
            for network, prepared, line, seed in zip(
                self.networks, self.prepare(parts, "train"), self.lines, self._seeds, strict=True
            ):
                _seed(seed + step, self.device)
                total, num = self.compute_loss(network, prepared, "train", line)
                self.update_loss("train", total, num, line)
                losses.append(self.scale_loss(total, num))
        return torch.stack(losses).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the loss of each network."""
        self._evaluate(batch, "val", list(self._averages))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the loss of each network, with its best weights."""
        networks = [self.select_network(k) for k in range(len(self.networks))]
        self._evaluate(batch, "test", networks)

    def _evaluate(self, batch: Batch, stage: Stage, networks: Sequence[nn.Module]) -> None:
        (batch,) = self.prepare([batch], stage)
        for network, line in zip(networks, self.lines, strict=True):
            self.update_loss(stage, *self.compute_loss(network, batch, stage, line), line)

    def on_validation_epoch_end(self) -> None:
        """Keep the weights that are the best so far in `fit`; log the epoch's metrics."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            for k, line in enumerate(self.lines):
                loss = self.metric(f"val/loss{line}").compute()
                if loss < self.best_loss[k]:
                    self.best_loss[k] = loss
                    self.best_step[k] = self.global_step
                    self.best[k].load_state_dict(self._averages[k].state_dict())
        super().on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the networks are and how they were trained, as plain values."""
        steps = self.best_step.tolist()
        write_record(
            checkpoint,
            kind=self.kind,
            **describe_network(self.networks[0]),
            **self.describe(),
            training=[
                {"num_train": num, "best_step": step}
                for num, step in zip(self.num_train, steps, strict=True)
            ],
            trained_on=self.trained_on,
            step=self.global_step,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject the weights of another task or of other training sets.

        Raises:
            InputError: They are, or the format is newer than this version reads.
        """
        source = "ckpt_path: the checkpoint"
        record = read_record(checkpoint, source)
        if record.get("kind") != self.kind:
            raise InputError(
                f"{source} does not hold {self.kind}; give one that `lit-hier fit` wrote for"
                f" {type(self).__name__}"
            )
        check_training_set(str(record.get("trained_on", "")), self.trained_on, "ckpt_path")
        own: dict[str, Any] = {}
        self.on_save_checkpoint(own)
        for name in ("training", *self.describe(), "network", "arguments"):
            expected, found = own["lit_hier"][name], record.get(name)
            if name == "training":
                name, expected, found = "num_train", list(self.num_train), _num_train(found)
            if found != expected:
                raise InputError(
                    f"{source} has {name} {found!s:.80}, but this run has {expected!s:.80}; give"
                    " the arguments of the run that it is from"
                )


def _num_train(training: Any) -> list[Any]:
    """Return the numbers of training data in a record; empty if it is damaged."""
    entries = training if isinstance(training, list) else []
    return [entry.get("num_train") for entry in entries if isinstance(entry, dict)]


def _build(build: Callable[[], nn.Module], network_seed: int, num_train: int) -> nn.Module:
    """Build a network whose weights depend on (network_seed, P) only."""
    try:
        cpu = torch.device("cpu")
        with _forked(cpu):
            _seed(_derive_seed(network_seed, num_train), cpu)
            network = build()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # networks raise exceptions of many types
        reason = one_line(error) or type(error).__name__
        raise InputError(f"network: it cannot be built: {reason:.150}") from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"network returns a {type(network).__name__}; give a class or a function that builds a"
            " torch.nn.Module"
        )
    return network


def _check_separate(networks: nn.ModuleList) -> None:
    """Reject networks that have a module, a parameter or a buffer in common."""
    seen: set[int] = set()
    for network in networks:
        own = {id(x) for part in _PARTS for x in getattr(network, part)()}
        if seen & own:
            raise InputError(
                f"network: the {len(networks)} networks share modules or parameters; give a class,"
                " or a function that builds a new network at each call"
            )
        seen |= own


def _derive_seed(*key: int) -> int:
    """Return a seed below 2^32 that depends on the key only."""
    return int(np.random.SeedSequence(list(key)).generate_state(1)[0])


def _forked(device: torch.device) -> AbstractContextManager[None]:
    """Restore the states of torch's generators at the end."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _seed(seed: int, device: torch.device) -> None:
    """Seed torch's generators: faster than `torch.manual_seed`, which formats the stack."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
