"""What a long run will take, in one line: measured on its first batch."""

import shutil
import sys
import time
from typing import Any, Final

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lit_hier.cli.provenance import find_peak_memory
from lit_hier.cli.runs import describe_size
from lit_hier.modules import ForwardBackwardModule

_LONG: Final = 60.0  # seconds
_FIRST_STEPS: Final = 20  # of a training that are measured, after the first, which is slower


class Estimate(Callback):
    """Prints time, memory and disk that a long run will take, once its first batch is done.

    `predict` is measured on the first batch that is computed rather than read, by the model's
    evaluations where these are counted; `fit` on its first steps, without validation. A run of
    less than a minute prints nothing. Memory is the most that the first process has had so far;
    disk is what the samples will take. Writes no file and logs nothing.
    """

    def __init__(self) -> None:
        self._done = False
        self._start = time.monotonic()
        self._first_step = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure the first steps of a training."""
        if self._done:
            return
        steps = trainer.global_step - self._first_step
        if not self._first_step:
            self._start, self._first_step = time.monotonic(), trainer.global_step
        elif steps >= _FIRST_STEPS:
            left = trainer.estimated_stepping_batches - trainer.global_step
            self._say(trainer, (time.monotonic() - self._start) / steps * left, 0, "first steps")

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin to measure."""
        if self._done or not isinstance(pl_module, ForwardBackwardModule):
            return
        self._start = time.monotonic()
        self._evaluations = pl_module.num_evaluations(batch["index"])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Extrapolate from a batch to those that are left."""
        if self._done or not isinstance(pl_module, ForwardBackwardModule):
            return
        assert trainer.predict_dataloaders is not None
        batches = list(trainer.predict_dataloaders.sampler)
        batches = batches[batch_idx + 1 : int(trainer.num_predict_batches[0])]
        evaluations = [pl_module.num_evaluations(index) for index in batches]
        if not self._evaluations and any(evaluations):  # this one was read, not computed
            return
        sizes = evaluations if self._evaluations else [len(index) for index in batches]
        size = self._evaluations or len(batch["index"])
        share = sum(sizes) / size if size else float(len(batches))
        duration = time.monotonic() - self._start
        written = pl_module.num_written_bytes(batch["index"]) if len(batch["index"]) else 0
        self._say(trainer, duration * share, round(written * share), "first batch")

    def _say(self, trainer: Trainer, seconds: float, written: int, measured: str) -> None:
        self._done = True
        if seconds < _LONG or not trainer.is_global_zero:
            return
        parts = [f"about {describe_duration(seconds)} left"]
        peak = find_peak_memory()
        if peak is not None:
            parts.append(f"{describe_size(peak)} of memory in use")
        if trainer.strategy.root_device.type == "cuda":
            used = torch.cuda.max_memory_allocated(trainer.strategy.root_device)
            parts.append(f"{describe_size(used)} on the GPU")
        if written:
            folder = getattr(trainer.lightning_module, "samples", None) or "."
            free = shutil.disk_usage(folder).free
            parts.append(
                f"{describe_size(written)} of disk for samples ({describe_size(free)} free)"
            )
        sys.stderr.write(f"estimate, from the {measured}: {', '.join(parts)}\n")
        sys.stderr.flush()


def describe_duration(seconds: float) -> str:
    """Return a duration in two units, as in 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.3g} days"
