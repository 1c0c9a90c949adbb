"""Progress bars on a terminal, and elsewhere a plain line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from lit_hier.modules import ForwardBackwardModule

_PERIOD: Final = 30.0  # seconds between two lines
# Units of a rate, and the seconds of each.
_UNITS: Final = {"second": 1, "minute": 60, "hour": 3600}


class ProgressLines:
    """Plain lines with what is done, the rate and the time left, at most one in 30 seconds.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.start(0)

    def start(self, done: float) -> None:
        """Begin something new.

        Args:
            done: How much of it is done already.
        """
        self._start, self._before = self._clock(), done

    def report(self, what: str, done: float, total: float, unit: str) -> None:
        """Write a line to standard error, unless the last one is less than 30 seconds old.

        Args:
            what: What is going on.
            done: How much of it is done.
            total: How much there is to do; infinite if unknown.
            unit: What is counted.
        """
        now = self._clock()
        if now - self._last < _PERIOD:
            return
        self._last = now
        sys.stderr.write(self._describe(what, done, total, unit, now - self._start) + "\n")
        sys.stderr.flush()

    def _describe(self, what: str, done: float, total: float, unit: str, duration: float) -> str:
        known = total < float("inf")
        text = f"{what}: {round(done, 1):g}" if done < 1e5 else f"{what}: {done:.0f}"
        text += (f" of {total:.0f}" if known else "") + f" {unit}"
        rate = (done - self._before) / duration if duration else 0.0
        if not rate:
            return text
        # The first unit in which at least one is done, or else an hour.
        name = next((name for name, size in _UNITS.items() if rate * size >= 1), "hour")
        text += f", {rate * _UNITS[name]:.3g} per {name}"
        return text + (f", {Tqdm.format_interval((total - done) / rate)} left" if known else "")


class TimeProgressBar(TQDMProgressBar):
    """Lightning's progress bar, which in `predict` also shows the current inversion time.

    In `predict` the bar of the batches moves within a batch, too. For a sampler that counts its
    model's evaluations, a second bar counts those that remain in this process and estimates the
    remaining time; stored batches need none.

    Where standard output is not a terminal, as in a file, there are no bars, but plain lines on
    standard error, at most one in 30 seconds: what is done, the rate and the time left. Writes no
    file and logs nothing.
    """

    _evaluations: Tqdm | None = None
    _lines: ProgressLines | None = None
    _batch_idx: int = 0
    _in_batch: float = 0.0  # the part of the current batch that is done
    _num_in_batch: int = 0  # evaluations that the current batch takes
    _num_done: int = 0  # evaluations
    _num_evaluations: int = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose between bars and lines."""
        super().setup(trainer, pl_module, stage)
        if self.is_enabled and not _draws_bars():
            self.disable()
            self._lines = ProgressLines()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the steps."""
        super().on_train_start(trainer, pl_module)
        if self._lines is not None:
            self._lines.start(trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report the steps of the whole training."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._lines is not None:
            what = f"Training, epoch {trainer.current_epoch}"
            total = trainer.estimated_stepping_batches
            self._lines.report(what, trainer.global_step, total, "steps")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Report the batches, unless this is within a training, which counts steps."""
        super().on_validation_batch_end(
            trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
        )
        if self._lines is not None and trainer.state.fn != "fit":
            total = self.total_val_batches_current_dataloader
            self._lines.report("Validating", batch_idx + 1, total, "batches")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Report the batches."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._lines is not None:
            total = self.total_test_batches_current_dataloader
            self._lines.report("Testing", batch_idx + 1, total, "batches")

    def init_predict_tqdm(self) -> Tqdm:
        """Return a bar that shows parts of a batch."""
        bar = super().init_predict_tqdm()
        bar.bar_format = self.BAR_FORMAT.replace("{n_fmt}", "{n:.1f}")
        return bar

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Track the sampler's loops."""
        super().on_predict_start(trainer, pl_module)
        if self._lines is not None:
            self._lines.start(0)
        if not isinstance(pl_module, ForwardBackwardModule) or not trainer.is_global_zero:
            return
        symbol, num_times = pl_module.axis.symbol, len(pl_module.times)

        def track(times: Iterable[float]) -> Iterator[float]:
            for k, inversion_time in enumerate(times):
                self.predict_progress_bar.set_postfix_str(f"{symbol} = {inversion_time:g}")
                yield inversion_time
                self._move((k + 1) / num_times)

        pl_module.track = track
        assert trainer.predict_dataloaders is not None
        batches = islice(trainer.predict_dataloaders.sampler, int(trainer.num_predict_batches[0]))
        self._num_done = 0
        self._num_evaluations = total = sum(map(pl_module.num_evaluations, batches))
        if total:
            self._evaluations = Tqdm(
                desc="Denoiser evaluations",
                total=total,
                position=2 * self.process_position + 1,
                disable=self.is_disabled,
                leave=True,
                dynamic_ncols=True,
                file=sys.stdout,
                unit="image",
            )
            pl_module.advance = self._advance

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Omit the data loader's number from the description; count what the batch will take."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.predict_progress_bar.set_description(self.predict_description)
        self._batch_idx, self._in_batch = batch_idx, 0.0
        if self._evaluations is not None and isinstance(pl_module, ForwardBackwardModule):
            self._num_in_batch = pl_module.num_evaluations(batch["index"])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Report the batch."""
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._move(1.0)

    def _advance(self, num: int) -> None:
        """Count evaluations of the sampler's model."""
        assert self._evaluations is not None
        self._num_done += num
        self._evaluations.update(num)
        self._move(self._in_batch + num / max(num, self._num_in_batch))

    def _move(self, part: float) -> None:
        """Show which part of the current batch is done."""
        if not self.predict_progress_bar.disable:
            self.predict_progress_bar.update(part - self._in_batch)
        self._in_batch = part
        if self._lines is None:
            return
        total = self.total_predict_batches_current_dataloader
        if self._evaluations is None:
            self._lines.report("Predicting", self._batch_idx + part, total, "batches")
        else:
            what = f"Predicting, batch {self._batch_idx + 1} of {total}"
            self._lines.report(what, self._num_done, self._num_evaluations, "evaluations")

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


def _draws_bars() -> bool:
    """Return whether standard output is a terminal, or a notebook."""
    return sys.stdout.isatty() or "ipykernel.kernelapp" in sys.modules
