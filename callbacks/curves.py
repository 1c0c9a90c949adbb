"""The base class of analyses that draw curves: per-sample values, summarized at the end."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.analysis import Analysis
from lit_hier.callbacks.axes import CURVE_AXES, Against, CurveAxis
from lit_hier.callbacks.tensorboard import log_curves, log_figure
from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.figures import Panel, curve_figure
from lit_hier.inference.theory import Prediction, predict
from lit_hier.io.arrays import write_samples
from lit_hier.io.figures import write_figure
from lit_hier.io.tables import write_table
from lit_hier.metrics import SampleTable, deviation
from lit_hier.modules import ForwardBackwardModule

Floats = NDArray[np.floating]
Curves = Mapping[str, Floats]
"""Values over times by the curve's name, shallow to deep."""


@dataclass(frozen=True)
class Line:
    """One curve of the results.

    Attributes:
        name: Its name in figures and in TensorBoard.
        columns: The columns of tables that identify it.
        curve: Index of the measured curve.
        level: Index of the level that theory predicts.
        sources: The sources whose samples are averaged; theory is that of the first one.
    """

    name: str
    columns: Mapping[str, str | int | float]
    curve: int
    level: int
    sources: Sequence[int]


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        x: Values of the x axis, shape (T,).
        xlabel: Its label.
        lines: The curves.
        table: A row per time and curve, all curves of a time together.
        values: The measurements of each sample, shape (quantities, T, measured curves, N).
        source: Index of each sample's source, int64, shape (N,).
    """

    x: Floats
    xlabel: str
    lines: Sequence[Line]
    table: DataFrame
    values: Floats
    source: NDArray[np.int64]

    def curves(self, column: str) -> Curves:
        """Return the curves of one column, float64, each of shape (T,)."""
        by_line = self.table[column].to_numpy(float).reshape(-1, len(self.lines)).T
        contiguous = np.ascontiguousarray(by_line)
        return {line.name: curve for line, curve in zip(self.lines, contiguous, strict=True)}


class CurveAnalysis(Analysis):
    """Measures numbers per sample and inversion time of a `predict` run, and writes curves.

    A subclass defines what is measured, and how samples are summarized and drawn. This class
    gathers the samples of all processes. On rank zero it writes into the logger's directory:

    - `{name}.csv`: a row per time and curve. Against the effective noise, a further column
      `effective_noise`; for images from files, the last columns skipped (unreadable), converted
      (of another mode) and enlarged (too small) count images.
    - `{name}.npz`: the measurements of every sample.
    - `{name}.png`: the figure.
    - `{name}_deviation.csv`, where theory predicts a curve at all times: a row per such curve with
      the columns of `lit_hier.metrics.deviation`.

    It logs to TensorBoard the curves `{name}/{column}`, one sub-run per curve, and the figure
    `{name}`. Memory grows with the number of samples by their measurements only.

    Subclasses whose argument `against` chooses the x axis pass it to `draw_against`: `time`, the
    default, or `effective_noise`, the epsilon(t) that the run measures at its leaves (Eq. 60); the
    names of all files and tags then end in `_against_noise`.
    """

    quantities: ClassVar[tuple[str, ...]]
    """The measurements of each sample, as arrays of the `.npz` are named."""
    logged: ClassVar[tuple[str, ...]]
    """Columns of the table that are logged to TensorBoard."""
    legend: ClassVar[str]
    """The title of the legend."""
    compared: ClassVar[tuple[str, str]] = ("", "")
    """Columns of measurement and theory, where there is a theory."""
    x_axis: CurveAxis = CURVE_AXES["time"]
    """What curves are drawn against."""
    x: Floats
    """Its values, shape (T,); known at the end of a run."""

    def draw_against(self, against: Against) -> None:
        """Choose the x axis."""
        self.x_axis = CURVE_AXES[against]
        self.name = f"{self.name}{self.x_axis.suffix}"

    @abstractmethod
    def lines(self) -> list[Line]:
        """List the curves, shallow to deep; known from `setup` on."""

    @abstractmethod
    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Measure a batch: shape (quantities, T, curves, B)."""

    @abstractmethod
    def summarize(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> Mapping[str, float]:
        """Compute the columns of one row.

        Args:
            samples: Measurements, shape (quantities, N).
            sources: Index of each sample's source, shape (N,).
            time: Index of the time.
            line: The curve.
        """

    def curve_names(self) -> list[str]:
        """Name the measured curves, for the `.npz`."""
        return [line.name for line in self.lines()]

    def panels(self, results: Results) -> Sequence[Panel]:
        """Arrange curves in panels."""
        return ()

    def figures(self, results: Results) -> dict[str, Figure]:
        """Draw the figures, by the name of their file."""
        critical = self.critical_value(results.lines[0])
        panels = self.panels(results)
        figure = curve_figure(results.x, results.xlabel, panels, self.legend, critical)
        return {self.name: figure}

    def charts(self, results: Results) -> dict[str, Curves]:
        """Choose TensorBoard's curves, by tag; all tags have the same curves."""
        return {f"{self.name}/{column}": results.curves(column) for column in self.logged}

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Compute the tables besides `{name}.csv`, by the name of their file."""
        if not any(self.compared):
            return {}
        measured, theory = map(results.curves, self.compared)
        rows = [
            {
                **line.columns,
                **deviation(
                    results.x, measured[line.name], theory[line.name], self.critical_value(line)
                ),
            }
            for line in results.lines
            if not np.isnan(theory[line.name]).any()
        ]
        return {f"{self.name}_deviation": DataFrame(rows)} if rows else {}

    def prediction(self, line: Line) -> Prediction:
        """Return what theory predicts for the samples of a curve."""
        source = self.sources[line.sources[0]]
        if source not in self._predictions:
            self._predictions[source] = self.predict(source)
        return self._predictions[source]

    def predict(self, source: Source) -> Prediction:
        """Predict the beliefs of a source; once per run and source."""
        return predict(source, self.noise_process, self.times)

    def critical_value(self, line: Line) -> float:
        """Return where on the x axis theory predicts the transition; NaN if nowhere."""
        time = self.prediction(line).critical_time
        source = self.sources[line.sources[0]]
        return self.x_axis.critical_value(time, self.noise_process, source)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject runs of a single inversion time or without a curve, and as `Analysis` does."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        kind = type(self).__name__
        if len(self.times) < 2:
            raise InputError(f"times: {kind} draws curves; give at least two times")
        if not self.lines():
            raise InputError(
                f"trainer.callbacks: {kind} has no curve to draw for these data; leave it out"
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allocate the table of samples."""
        super().on_predict_start(trainer, pl_module)
        num, num_times = self.num_samples(trainer), len(self.times)
        shape = (len(self.quantities), num_times, len(self.curve_names()))
        self._values = SampleTable(*shape, num_samples=num)
        self._source = SampleTable(num_samples=num)
        self._x = SampleTable(num_times, num_samples=num) if self.x_axis.column else None

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Measure a batch."""
        index = record.index.cpu()
        self._values.update(index, self.measure(trainer, pl_module, record).cpu())
        self._source.update(index, torch.full_like(index, record.source))
        x = self.x_axis.measure(record, type(pl_module).__name__)
        if self._x is not None and x is not None:
            self._x.update(index, x.cpu())

    def compute(self, pl_module: ForwardBackwardModule) -> list[NDArray[Any]]:
        """Gather all samples: their indices, measurements, sources and x values, if any."""
        tables = [self._values, self._source] + ([self._x] if self._x is not None else [])
        computed = [table.to(pl_module.device).compute() for table in tables]
        del self._values, self._source, self._x
        return [computed[0][0], *(values for _, values in computed)]

    def write(self, trainer: Trainer, folder: str, measured: list[NDArray[Any]]) -> None:
        """Summarize the samples, and write all files."""
        index, values, source, *x = measured
        if not len(index):
            raise InputError("data: none of the images can be read; check the files")
        self.x = self.x_axis.values(self.times, x[0] if x else None)
        self._predictions: dict[Source, Prediction] = {}
        results = self._summarize(values, source.astype(np.int64))
        samples: dict[str, Any] = {"time": self.times, "curve": self.curve_names()}
        samples |= {"index": index, "source": results.source}
        samples |= zip(self.quantities, values, strict=True)
        write_samples(folder, self.name, samples)
        for name, figure in self.figures(results).items():
            write_figure(folder, name, figure)
            log_figure(trainer.loggers, name, figure)
        for name, table in self.tables(results).items():
            write_table(folder, name, table)
        write_table(folder, self.name, results.table)
        log_curves(trainer.loggers, self.charts(results), self.axis, self.times)

    def _summarize(self, values: Floats, source: NDArray[np.int64]) -> Results:
        """Compute the table: lines without samples are omitted."""
        masks = [(line, np.isin(source, line.sources)) for line in self.lines()]
        masks = [(line, mask) for line, mask in masks if mask.any()]
        lines, num_times = [line for line, _ in masks], len(self.times)
        rows = [
            self.summarize(values[:, k, line.curve, mask], source[mask], k, line)
            for k in range(num_times)
            for line, mask in masks
        ]
        columns: dict[str, Any] = {
            "process": self.axis.process,
            "time": np.repeat(self.times, len(lines)),
        }
        columns |= {
            name: [line.columns[name] for line in lines] * num_times for name in lines[0].columns
        }
        columns |= {name: [row[name] for row in rows] for name in rows[0]}
        if self.x_axis.column:
            columns[self.x_axis.column] = np.repeat(self.x, len(lines))
        table = DataFrame(columns | dict(self.image_counts))
        return Results(self.x, self.x_axis.label(self.axis), lines, table, values, source)
