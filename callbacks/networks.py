"""The base class of analyses that evaluate a network, and check it before the run."""

from abc import ABC, abstractmethod
from typing import Any, Final

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from lit_hier.callbacks.analysis import check_name
from lit_hier.callbacks.axes import Against, choose_axis
from lit_hier.callbacks.curves import CurveAnalysis
from lit_hier.data.batches import PlannedBatches
from lit_hier.errors import InputError
from lit_hier.nn.self_check import Checked
from lit_hier.nn.trained import check_held_out

_NUM_SAMPLES: Final = 4  # that are read for a check


def first_samples(loader: Any) -> Tensor:
    """Return `x` of the first samples of a data loader, at most four, shape (B, ...).

    With `PlannedBatches`, only these are read. The states of all random number generators stay as
    they are.

    Raises:
        InputError: None can be read.
    """
    if isinstance(getattr(loader, "sampler", None), PlannedBatches):
        some = torch.arange(loader.sampler.block_size).split(_NUM_SAMPLES)
        batches: Any = (loader.dataset[index] for index in some)
    else:
        batches = loader
    with isolate_rng():
        x: Tensor | None = next((batch["x"] for batch in batches if len(batch["x"])), None)
    if x is None:
        raise InputError("data: none of the samples can be read; check the files")
    return x[:_NUM_SAMPLES]


class NetworkAnalysis(CurveAnalysis, ABC):
    """Moves a network to the run's device, and checks that it was trained on the run's data.

    Before anything is computed, a few samples prove that its outputs can be measured: see
    `lit_hier.nn.self_check`.

    Args:
        network: A network that takes `x` of the data module's batches.
        against: The x axis, see `CurveAnalysis`.
        name: The common name of files and tags: letters, digits, `_`, `-` and `.`.

    Attributes:
        checked: What the check found of each layer, then of the network's output.

    Raises:
        InputError: The name is not allowed, or `against` is not an x axis.
    """

    def __init__(self, network: nn.Module, against: Against, name: str) -> None:
        super().__init__(choose_axis(against), check_name(name))
        self.network = network.eval().requires_grad_(False)
        self.checked: list[Checked] = []

    @abstractmethod
    def check(self, x: Tensor) -> list[Checked]:
        """Prove on a few samples, shape (B, ...), that the network can be measured.

        Raises:
            InputError: It cannot.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject runs without a data module, and networks that the run cannot measure.

        Raises:
            InputError: There is no data module, the data that it holds out may be among those that
                the network's `trained_on` names, the network cannot be measured, or the base class
                rejects the run.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        datamodule: LightningDataModule | None = getattr(trainer, "datamodule", None)
        if datamodule is None:
            raise InputError(f"data: {type(self).__name__} needs a data module")
        self.datamodule = datamodule
        trained_on = getattr(self.network, "trained_on", "")
        training_set = getattr(datamodule, "training_set", "")
        check_held_out(trained_on, training_set, "weights")
        # On one process: all take its word, and end together.
        problem = self._find_problem(trainer) if trainer.is_global_zero else ""
        problem, self.checked = trainer.strategy.broadcast((problem, self.checked))
        if problem:
            raise InputError(problem)

    def _find_problem(self, trainer: Trainer) -> str:
        try:
            x = first_samples(self.datamodule.predict_dataloader())
            device = trainer.strategy.root_device
            self.network.to(device)
            self.checked = self.check(x.to(device))
        except InputError as error:
            return str(error)
        return ""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the network to the device."""
        super().on_predict_start(trainer, pl_module)
        self.network.to(pl_module.device)
