"""The base class of analyses that draw curves: per-sample values, summarized at the end."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.analysis import Analysis, SourceGroup, find_cache
from lit_hier.callbacks.axes import CurveAxis, Floats
from lit_hier.callbacks.tensorboard import log_curves
from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.figures import Panel, compare_panels, curve_figure
from lit_hier.inference.theory import Prediction, predict
from lit_hier.io.devices import download
from lit_hier.metrics import SampleTable, average, deviation, transition_window
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm.parameters import GrammarParameters

Curves = Mapping[str, Floats]
"""Values over times by the curve's name, shallow to deep."""
Columns = Mapping[str, ArrayLike]
"""Values over times, shape (T,), or one value for all times, by the column's name."""
_T = TypeVar("_T")


def transpose(rows: Sequence[Mapping[str, _T]]) -> dict[str, list[_T]]:
    """Turn rows that have the same keys, at least one, into columns."""
    return {key: [row[key] for row in rows] for key in rows[0]}


@dataclass(frozen=True)
class Line:
    """One curve of the results.

    Attributes:
        name: Its name in figures and in TensorBoard.
        columns: The columns of tables that identify it.
        curve: Index of the measured curve.
        level: Index of the level that theory predicts.
        source_indices: Indices of the sources whose samples are averaged; theory is that of the
            first one.
    """

    name: str
    columns: Mapping[str, str | int | float]
    curve: int
    level: int
    source_indices: Sequence[int]


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        x: Values of the x axis, shape (T,).
        xlabel: Its label.
        lines: The curves.
        table: A row per time and curve, all curves of a time together.
        values: The measurements of each sample, shape (quantities, T, measured curves, N).
        source_indices: Index of each sample's source, int64, shape (N,).
    """

    x: Floats
    xlabel: str
    lines: Sequence[Line]
    table: DataFrame
    values: Floats
    source_indices: NDArray[np.int64]

    def curves(self, column: str) -> Curves:
        """Return the curves of one column, float64, each of shape (T,)."""
        by_line = self.table[column].to_numpy(float).reshape(-1, len(self.lines)).T
        contiguous = np.ascontiguousarray(by_line)
        return {line.name: curve for line, curve in zip(self.lines, contiguous, strict=True)}


@dataclass(frozen=True)
class Compared:
    """Columns of a measurement and its theory, and of their standard errors.

    Attributes:
        measured: The measurement.
        theory: The theory; NaN where there is none.
        sem: The measurement's error.
        theory_sem: The theory's error; empty if it is exact.
    """

    measured: str
    theory: str
    sem: str
    theory_sem: str = ""


class CurveAnalysis(Analysis):
    """Measures numbers per sample and inversion time of a `predict` run, and writes curves.

    A subclass defines what is measured, and how samples are summarized and drawn. This class
    gathers the samples of all processes. On rank zero it writes into the logger's directory:

    - `{name}.csv`: a row per time and curve. Against the effective noise, further columns
      `effective_noise` and `effective_noise_sem`, its standard error; against information
      `leaf_information` and `leaf_information_sem`; for images from files, the last columns
      skipped (unreadable), converted (of another mode) and enlarged (too small) count images.
    - `{name}.npz`: the measurements of every sample.
    - `{name}.png`: the figure; beside it in `figure_format`, if that is another.
    - `{name}_deviation.csv`, where theory predicts a curve at all times: a row per such curve and
      quantity with the columns that identify the curve, those of `lit_hier.metrics.deviation` and
      quantity, the measured column of `{name}.csv`. The window follows the theory of the root at
      this depth, see `lit_hier.metrics.transition_window`; largest_sem is the standard error of
      measurement and theory together.

    It logs to TensorBoard the curves `{name}/{column}`, one sub-run per curve, and the figure
    `{name}`. Memory grows with the number of samples by their measurements only.

    For denoisers that were trained, such as a `LearnedDenoiser`'s, each training has curves of its
    own, as has exact inference on the same data: tables have the columns num_train, the number of
    training data, infinity for exact inference, and step, the optimizer steps of the weights,
    before those that tell the curves of one training apart. Networks of one training all denoise
    the same data, with the same noise: a datum is averaged over them first, and both data and
    networks contribute to standard errors, see `crossed` of `lit_hier.metrics.average`. The column
    count is the number of these data. The figure has a panel per training with one of the
    quantities, and exact inference dashed.

    In configs, the argument `against` of some subclasses chooses the x axis. The names of
    files and tags then end in its suffix:

    - `time`, the default.
    - `effective_noise`, suffix `_against_noise`: the epsilon(t) that the run measures at its
      leaves (Eq. 60).
    - `information`, suffix `_against_information`: the share I(x_0; x_t)/ln v of a leaf's
      information that its observation holds, measured likewise: 1 without noise, 0 where all is
      lost. Figures draw it from right to left, so that noise grows to the right.

    Args:
        x_axis: What curves are drawn against.
        name: The common name of files and tags, before the x axis's suffix; by default that of the
            class.
    """

    suffixes: ClassVar[tuple[str, ...]] = ("", "_deviation")
    quantities: ClassVar[tuple[str, ...]]
    """The measurements of each sample, as arrays of the `.npz` are named."""
    logged: ClassVar[tuple[str, ...]]
    """Columns of the table that are logged to TensorBoard."""
    legend: ClassVar[str]
    """The title of the legend."""
    compared: ClassVar[tuple[Compared, ...]] = ()
    """What theory predicts."""
    least_times: ClassVar[int] = 2
    """Inversion times that the curves need."""
    main_panel: ClassVar[int] = 0
    """Index of the panel that is drawn for each training, where there are several."""

    def __init__(self, x_axis: CurveAxis, name: str = "") -> None:
        super().__init__()
        self.x_axis = x_axis
        self.name = f"{name or self.name}{x_axis.suffix}"

    @abstractmethod
    def lines(self) -> list[Line]:
        """List the curves of one training, shallow to deep; known from `setup` on."""

    def all_lines(self) -> list[Line]:
        """List the curves of each training, one after another."""
        groups = self.source_groups()
        if not groups[0].columns:
            return self.lines()
        lines = []
        for group, line in product(groups, self.lines()):
            indices = [k for k in line.source_indices if k in group.source_indices]
            if indices:
                name, columns = group.qualify(line.name), {**group.columns, **line.columns}
                line = replace(line, name=name, columns=columns, source_indices=indices)
                lines.append(line)
        return lines

    def split(self, results: Results) -> list[tuple[SourceGroup, Results]]:
        """Split results by training; curves then have the names that `lines` gives them."""
        groups = self.source_groups()
        if not groups[0].columns:
            return [(groups[0], results)]
        parts = []
        for group in groups:
            chosen = [
                k
                for k, line in enumerate(results.lines)
                if line.source_indices[0] in group.source_indices
            ]
            if not chosen:
                continue
            row = np.arange(len(results.table)) % len(results.lines)
            sampled = np.isin(results.source_indices, group.source_indices)
            lines = [results.lines[k] for k in chosen]
            part = Results(
                results.x,
                results.xlabel,
                [replace(x, name=x.name.removeprefix(group.name)[2:]) for x in lines],
                results.table[np.isin(row, chosen)],
                results.values[..., sampled],
                results.source_indices[sampled],
            )
            parts.append((group, part))
        return parts

    @abstractmethod
    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Measure a batch: shape (quantities, T, curves, B)."""

    @abstractmethod
    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute the columns of one curve.

        Args:
            samples: Measurements, float64, shape (quantities, T, N).
            source_indices: Index of each sample's source, shape (N,).
            line: The curve.
        """

    @property
    def curves_name(self) -> str:
        """The name of the table of curves."""
        return self.name

    def curve_names(self) -> list[str]:
        """Name the measured curves, for the `.npz`; those of all trainings have the same names."""
        return [line.name for line in self.lines()]

    def arrays(self, values: Floats) -> Mapping[str, NDArray[Any]]:
        """Name the measurements, shape (quantities, T, curves, N), as arrays of the `.npz`."""
        return dict(zip(self.quantities, values, strict=True))

    def panels(self, results: Results) -> Sequence[Panel]:
        """Arrange curves in panels."""
        return ()

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw the figures, by the name of their file.

        Args:
            results: The results.
            tables: What `tables` returned.
        """
        critical = self.critical_value(results.lines[0])
        parts = self.split(results)
        if parts[0][0].columns:
            by_name = {group.name: self.panels(part)[self.main_panel] for group, part in parts}
            exact = [group.name for group, _ in parts if group.is_exact]
            panels: Sequence[Panel] = compare_panels(by_name, *exact)
        else:
            panels = self.panels(results)
        figure = curve_figure(results.x, results.xlabel, panels, self.legend, critical)
        return {self.name: figure}

    def charts(self, results: Results) -> dict[str, Curves]:
        """Choose TensorBoard's curves, by tag; all tags have the same curves."""
        return {f"{self.name}/{column}": results.curves(column) for column in self.logged}

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Compute the tables besides `{name}.csv`, by the name of their file."""
        rows = []
        for pair in self.compared:
            measured, theory = results.curves(pair.measured), results.curves(pair.theory)
            sem = results.curves(pair.sem)
            theory_sem = results.curves(pair.theory_sem) if pair.theory_sem else {}
            for line in results.lines:
                if np.isnan([theory[line.name], measured[line.name]]).any():
                    continue
                found = deviation(
                    results.x,
                    measured[line.name],
                    theory[line.name],
                    self.critical_value(line),
                    self.window(results.x, line),
                    np.hypot(sem[line.name], theory_sem.get(line.name, 0.0)),
                )
                rows.append({**line.columns, **found, "quantity": pair.measured})
        return {f"{self.name}_deviation": DataFrame(transpose(rows))} if rows else {}

    def window(self, x: Floats, line: Line) -> float:
        """Return the half-width of the window around a curve's transition; NaN if unknown."""
        source, root = self._source(line), self.prediction(line).marginal[:, -1:]
        if not isinstance(source, GrammarParameters) or not root.size:
            return math.nan
        return transition_window(x, root[:, 0], 1 / source.n)

    def prediction(self, line: Line) -> Prediction:
        """Return what theory predicts for the samples of a curve."""
        return self._predictions[self._source(line)]

    def comparison(self, line: Line) -> Prediction | None:
        """Return what the x axis compares a curve with; None for nothing."""
        return self._comparisons[self._source(line)]

    def critical_value(self, line: Line) -> float:
        """Return the x value of the predicted transition; NaN if theory predicts none."""
        time = self.prediction(line).critical_time
        return self.x_axis.critical_value(time, self.noise_process, self._source(line))

    def _source(self, line: Line) -> Source:
        return self.sources[line.source_indices[0]]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject runs without two inversion times, a curve or the x axis, and as `Analysis` does.

        Raises:
            InputError: There is one inversion time or no curve, the sampler does not measure the
                x axis, or the base class rejects the run.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        kind = type(self).__name__
        if len(self.times) < self.least_times:
            raise InputError(f"times: {kind} draws curves; give at least two times")
        if not self.lines():
            raise InputError(
                f"trainer.callbacks: {kind} has no curve to draw for these data; leave it out"
            )
        assert isinstance(pl_module, ForwardBackwardModule)
        self.x_axis.check(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allocate the table of samples."""
        super().on_predict_start(trainer, pl_module)
        num, num_times = self.num_samples(trainer), len(self.times)
        shape = (len(self.quantities), num_times, len(self.curve_names()))
        self._values = SampleTable(*shape, num_samples=num)
        self._source_indices = SampleTable(num_samples=num)
        self._x = SampleTable(num_times, num_samples=num) if self.x_axis.column else None

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Measure a batch."""
        values = self.measure(trainer, pl_module, record)
        index, values = download([record.index, values])
        self._values.update(index, values)
        self._source_indices.update(index, torch.full_like(index, record.source_index))
        x = self.x_axis.measure(record)
        if self._x is not None and x is not None:
            self._x.update(index, x.cpu())

    def compute(self, pl_module: ForwardBackwardModule) -> list[NDArray[Any]]:
        """Gather all samples: indices, measurements, source indices and x values, if any."""
        tables = [self._values, self._source_indices]
        if self._x is not None:
            tables.append(self._x)
        computed = [table.to(pl_module.device).compute() for table in tables]
        del self._values, self._source_indices, self._x
        return [computed[0][0], *(values for _, values in computed)]

    def write(self, trainer: Trainer, measured: list[NDArray[Any]]) -> None:
        """Summarize the samples, and add all but the figures."""
        index, values, source_indices, *gathered = measured
        if not len(index):
            raise InputError("data: none of the images can be read; check the files")
        x = self.x_axis.values(self.times, gathered[0] if gathered else None)
        source_indices = source_indices.astype(np.int64)
        cache = find_cache(trainer, "theory")
        self._predictions = {
            source: predict(source, self.noise_process, self.times, cache)
            for source in set(map(self._source, self.all_lines()))
        }
        self._comparisons = {
            source: self.x_axis.compare(source, x) for source in self._predictions
        }
        if not self.uniform_prior:
            for found in (self._predictions, self._comparisons):
                found |= {source: known and known.upward_only() for source, known in found.items()}
        x_axis = {}
        if gathered:
            column, sem = (
                self.x_axis.column,
                average(gathered[0], source_indices, self.is_random, self.crossed).sem,
            )
            x_axis = {column: x, f"{column}_sem": sem}
        results = self._summarize(x, values, source_indices, x_axis)
        tables = self.tables(results)
        samples: dict[str, Any] = {"time": self.times, "curve": self.curve_names()}
        samples |= {"index": index, "source": results.source_indices}
        samples |= self.arrays(values)
        self.draw_later(lambda: self.figures(results, tables))
        self.add_samples(self.name, samples)
        for name, table in tables.items():
            self.add_table(name, table)
        self.add_table(self.curves_name, results.table)
        log_curves(trainer.loggers, self.charts(results), self.axis, self.times)

    def _summarize(
        self, x: Floats, values: Floats, source_indices: NDArray[np.int64], x_axis: Columns
    ) -> Results:
        """Compute the table, with columns of the x axis: lines without samples are omitted."""
        lines, summaries = [], []
        for line in self.all_lines():
            mask = np.isin(source_indices, line.source_indices)
            if mask.any():
                samples = values[:, :, line.curve, mask].astype(np.float64, order="C")
                lines.append(line)
                summaries.append(self.summarize(samples, source_indices[mask], line))
        num_times = len(self.times)
        columns: dict[str, Any] = {
            "process": self.axis.process,
            "time": np.repeat(self.times, len(lines)),
        }
        for name, by_line in transpose([line.columns for line in lines]).items():
            columns[name] = by_line * num_times
        for name, curves in transpose(summaries).items():
            full = [np.broadcast_to(curve, num_times) for curve in curves]
            columns[name] = np.stack(full, axis=1).ravel()
        for name, column in x_axis.items():
            columns[name] = np.repeat(column, len(lines))
        table = DataFrame(columns | dict(self.image_counts))
        return Results(x, self.x_axis.label(self.axis), lines, table, values, source_indices)
