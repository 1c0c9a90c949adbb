"""A progress bar with the inversion time and the sampler's remaining evaluations."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from lit_hier.modules import ForwardBackwardModule


class TimeProgressBar(TQDMProgressBar):
    """Lightning's progress bar, which in `predict` also shows the current inversion time.

    For a sampler that counts its model's evaluations, a second bar counts those that remain in
    this process and estimates the remaining time; stored batches need none. Writes no file and
    logs nothing.
    """

    _evaluations: Tqdm | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Track the sampler's loops with the bars."""
        super().on_predict_start(trainer, pl_module)
        if isinstance(pl_module, ForwardBackwardModule):
            symbol = pl_module.axis.symbol

            def track(times: Iterable[float]) -> Iterator[float]:
                for time in times:
                    self.predict_progress_bar.set_postfix_str(f"{symbol} = {time:g}")
                    yield time

            pl_module.track = track
            if self.is_disabled:
                return
            assert trainer.predict_dataloaders is not None
            batches = islice(
                trainer.predict_dataloaders.sampler, int(trainer.num_predict_batches[0])
            )
            if total := sum(map(pl_module.num_evaluations, batches)):
                self._evaluations = Tqdm(
                    desc="Denoiser evaluations",
                    total=total,
                    position=2 * self.process_position + 1,
                    leave=True,
                    dynamic_ncols=True,
                    unit="image",
                )
                pl_module.advance = self._evaluations.update

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Omit the data loader's number from the description."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.predict_progress_bar.set_description(self.predict_description)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bars."""
        super().on_predict_end(trainer, pl_module)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the second bar."""
        self._close()

    def _close(self) -> None:
        if self._evaluations is not None:
            self._evaluations.close()
            self._evaluations = None
