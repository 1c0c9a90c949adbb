"""What the analyses share that put data through a network."""

import re
from abc import ABC
from typing import Literal

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import nn

from lit_hier.callbacks.curves import CurveAnalysis
from lit_hier.errors import InputError
from lit_hier.nn.trained import check_training_set


class NetworkAnalysis(CurveAnalysis, ABC):
    """Brings a network to the run's device, if it was not trained on other data.

    Args:
        network: It takes `x` of the data module's batches.
        against: See `CurveAnalysis`.
        name: Of the files and tags: letters, digits, `_`, `-` and `.`.

    Raises:
        InputError: The name cannot be a file's.
    """

    def __init__(
        self, network: nn.Module, against: Literal["time", "effective_noise"], name: str
    ) -> None:
        if not re.fullmatch(r"[\w][\w.-]*", name):
            raise InputError(f"name is {name!r}; give letters, digits, _, - and .")
        self.name = name
        super().__init__(against)
        self.network = network.eval().requires_grad_(False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse runs without a data module, and networks that were trained on other data.

        Raises:
            InputError: There is no data module; the network says what it was `trained_on`, and
                this is not the data module's `training_set`; or what the base class refuses.
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
        """Bring the network to the device."""
        super().on_predict_start(trainer, pl_module)
        self.network.to(pl_module.device)
