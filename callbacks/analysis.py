"""What all analyses of a forward-backward experiment share: when they see, reduce and write."""

from abc import ABC, abstractmethod
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.modules import ForwardBackwardModule


class Analysis(Callback, ABC):
    """Measures the records of a `predict` run and writes into the logger's directory at its end.

    What the processes have measured is united once, after the last batch; rank zero writes, each
    file whole or not at all.
    """

    @abstractmethod
    def see(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Measure a batch."""

    @abstractmethod
    def unite(self, pl_module: ForwardBackwardModule) -> Any:
        """Unite what all processes have measured; called on all of them."""

    @abstractmethod
    def write(self, trainer: Trainer, folder: str, measured: Any) -> None:
        """Write what `unite` gave; called on rank zero."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse runs that give nothing to measure, or have no place for the results.

        Raises:
            InputError: There is no logger with a directory, or the module is no sampler.
        """
        if stage != "predict":
            return
        if trainer.log_dir is None or trainer.logger is None:
            raise InputError(
                f"trainer.logger: {type(self).__name__} needs a logger that has a folder"
            )
        if not isinstance(pl_module, ForwardBackwardModule):
            raise InputError(
                f"model: {type(self).__name__} measures samplers such as BPDenoiser,"
                f" not {type(pl_module).__name__}"
            )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch."""
        assert isinstance(pl_module, ForwardBackwardModule)
        assert isinstance(outputs, ForwardBackward)
        self.see(trainer, pl_module, outputs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unite the processes' measurements; on rank zero, write everything."""
        assert isinstance(pl_module, ForwardBackwardModule)
        measured = self.unite(pl_module)
        folder = trainer.log_dir  # asked of all processes, as it is broadcast
        assert folder is not None
        if trainer.is_global_zero:
            self.write(trainer, folder, measured)
