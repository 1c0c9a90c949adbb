"""The base class of analyses that evaluate a network."""

import re
from abc import ABC

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import nn

from lit_hier.callbacks.axes import Against, choose_axis
from lit_hier.callbacks.curves import CurveAnalysis
from lit_hier.errors import InputError
from lit_hier.nn.trained import check_training_set


class NetworkAnalysis(CurveAnalysis, ABC):
    """Moves a network to the run's device, and checks that it was trained on the run's data.

    Args:
        network: A network that takes `x` of the data module's batches.
        against: The x axis, see `CurveAnalysis`.
        name: The common name of files and tags: letters, digits, `_`, `-` and `.`.

    Raises:
        InputError: The name is not allowed, or `against` is not an x axis.
    """

    def __init__(self, network: nn.Module, against: Against, name: str) -> None:
        if not re.fullmatch(r"[\w][\w.-]*", name):
            raise InputError(f"name is {name!r}; give letters, digits, _, - and .")
        super().__init__(choose_axis(against), name)
        self.network = network.eval().requires_grad_(False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject runs without a data module, and networks that were trained on other data.

        Raises:
            InputError: There is no data module, the network's `trained_on` is not the data
                module's `training_set`, or the base class rejects the run.
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
        check_training_set(trained_on, training_set, "weights")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the network to the device."""
        super().on_predict_start(trainer, pl_module)
        self.network.to(pl_module.device)
