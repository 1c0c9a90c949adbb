"""What the analyses share: a table filled per sample, written as curves when the run ends."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.writers import log_curves, log_figure, write_csv, write_figure, write_samples
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.metrics import SampleTable
from lit_hier.modules import ForwardBackwardModule
from lit_hier.plots import Panel, curve_figure

Floats = NDArray[np.floating]
Curves = Mapping[str, Floats]
"""Values over times by the curve's name, shallow to deep."""


class CurveAnalysis(Callback, ABC):
    """Measures numbers per sample and inversion time of a `predict` run, and writes curves.

    A subclass says what it measures and how samples are summarised and drawn; this class gathers
    the samples of all processes and, on rank zero, writes into the logger's directory `{name}.csv`
    (a row per time and curve), `{name}.npz` (the numbers of every sample), `{name}.png`, and logs
    TensorBoard's curves `{name}/{column}`, one sub-run per curve, and the picture `{name}`. Each
    file is written whole or not at all, after the last batch. In memory it keeps the numbers of
    the table and nothing else that grows with the samples.
    """

    name: ClassVar[str]
    """Of the files."""
    quantities: ClassVar[tuple[str, ...]]
    """What is measured of each sample, as arrays of the `.npz` are named."""
    logged: ClassVar[tuple[str, ...]]
    """Columns of the table that TensorBoard gets as curves."""
    legend: ClassVar[str]
    """What tells the curves apart."""

    @abstractmethod
    def lines(self) -> list[tuple[str, dict[str, str | int]]]:
        """List the curves, shallow to deep: a name, and the columns that say which it is."""

    @abstractmethod
    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Measure a batch: shape (quantities, T, curves, B)."""

    @abstractmethod
    def summarise(self, samples: Floats, time: int, line: int) -> dict[str, float]:
        """Make the columns of one row from the samples, shape (quantities, N)."""

    @abstractmethod
    def panels(self, curves: Mapping[str, Curves]) -> Sequence[Panel]:
        """Arrange the columns' curves in panels."""

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

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an empty table."""
        self._table: SampleTable | None = None

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
        values = self.measure(trainer, pl_module, outputs)
        if self._table is None:
            assert trainer.predict_dataloaders is not None
            num_samples = len(trainer.predict_dataloaders.dataset)
            self._table = SampleTable(*values.shape[:-1], num_samples=num_samples)
            # What all batches have in common.
            self.axis, self.times = outputs.axis, outputs.times.tolist()
            self.critical_time = outputs.critical_time
            self.theory = None if outputs.theory is None else outputs.theory.tolist()
        self._table.update(outputs.index.cpu(), values.cpu())

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the processes' tables; on rank zero, write everything."""
        assert self._table is not None
        index, values = self._table.to(pl_module.device).compute()
        folder = trainer.log_dir  # asked of all processes, as it is broadcast
        assert folder is not None
        if trainer.is_global_zero:
            self._write(trainer, folder, index.cpu().numpy(), values.cpu().numpy())
        self._table = None

    def _write(
        self, trainer: Trainer, folder: str, index: NDArray[np.int64], values: Floats
    ) -> None:
        lines = self.lines()
        rows = [
            {"process": self.axis.process, "time": time, **columns}
            | self.summarise(values[:, k, j], k, j)
            for k, time in enumerate(self.times)
            for j, (_, columns) in enumerate(lines)
        ]
        curves = {
            column: {
                name: np.array([row[column] for row in rows[j :: len(lines)]], dtype=np.float64)
                for j, (name, _) in enumerate(lines)
            }
            for column in rows[0]
            if column not in ("process", "time", *lines[0][1])
        }
        figure = curve_figure(
            self.times, self.axis.label, self.panels(curves), self.legend, self.critical_time
        )
        samples = {"time": self.times, "curve": [name for name, _ in lines], "index": index}
        samples |= zip(self.quantities, values, strict=True)
        write_samples(folder, self.name, samples)
        write_figure(folder, self.name, figure)
        write_csv(folder, self.name, rows)
        logged = {f"{self.name}/{column}": curves[column] for column in self.logged}
        log_curves(trainer.loggers, logged, self.axis, self.times)
        log_figure(trainer.loggers, self.name, figure)
