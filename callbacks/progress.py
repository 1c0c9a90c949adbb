"""A progress bar that tells the inversion time."""

from collections.abc import Iterable, Iterator
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from lit_hier.modules import ForwardBackwardModule


class TimeProgressBar(TQDMProgressBar):
    """Lightning's progress bar, which in `predict` also shows the inversion time at work.

    Writes nothing and logs nothing.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the bar around the sampler's loop over times."""
        super().on_predict_start(trainer, pl_module)
        if isinstance(pl_module, ForwardBackwardModule):
            symbol = pl_module.axis.symbol

            def track(times: Iterable[float]) -> Iterator[float]:
                for time in times:
                    self.predict_progress_bar.set_postfix_str(f"{symbol} = {time:g}")
                    yield time

            pl_module.track = track

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave the data loader's number out of the description."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.predict_progress_bar.set_description(self.predict_description)
