"""What the analyses with curves share: a table filled per sample, summarised when the run ends."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.analysis import Analysis
from lit_hier.callbacks.writers import log_curves, log_figure, write_csv, write_figure
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures.plots import Panel, curve_figure
from lit_hier.io.arrays import write_samples
from lit_hier.metrics import SampleTable, deviation
from lit_hier.modules import ForwardBackwardModule

Floats = NDArray[np.floating]
Curves = Mapping[str, Floats]
"""Values over times by the curve's name, shallow to deep."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One curve of the results.

    Attributes:
        name: As pictures and TensorBoard show it.
        columns: What says in tables which it is.
        curve: Which of the measured curves.
        predicted: Which of the theory's curves.
        sources: Whose samples are averaged; the theory is the first one's.
    """

    name: str
    columns: Mapping[str, str | int | float]
    curve: int
    predicted: int
    sources: Sequence[int]


@dataclass(frozen=True)
class Results:
    """What is known at the end of a run.

    Attributes:
        x: What curves are drawn against, shape (T,).
        xlabel: What that is.
        lines: The curves.
        curves: By column of the table, then by the curve's name.
        values: What was measured of each sample, shape (quantities, T, measured curves, N).
        source: Where each sample is from, int64, shape (N,).
    """

    x: Floats
    xlabel: str
    lines: Sequence[Line]
    curves: Mapping[str, Curves]
    values: Floats
    source: NDArray[np.int64]


class CurveAnalysis(Analysis):
    """Measures numbers per sample and inversion time of a `predict` run, and writes curves.

    A subclass says what it measures and how samples are summarised and drawn; this class gathers
    the samples of all processes and, on rank zero, writes into the logger's directory `{name}.csv`
    (a row per time and curve), `{name}.npz` (the numbers of every sample), `{name}.png`, and,
    where there is a theory to compare with, `{name}_deviation.csv`; it logs TensorBoard's curves
    `{name}/{column}`, one sub-run per curve, and the picture `{name}`. In memory it keeps the
    numbers of the table and nothing else that grows with the samples.

    `{name}_deviation.csv` has a row per curve of which theory says something at all times, with
    the columns of `lit_hier.metrics.deviation`. Of images from files, the table's last columns say
    how many were skipped (unreadable), converted (of another mode) and enlarged (too small).

    Args:
        against: What pictures are drawn against: the inversion time, or the effective noise
            epsilon(t) that the run measures at its leaves (Eq. 60), which then is a last column
            of the table too; all names then end in `_against_noise`.
    """

    quantities: ClassVar[tuple[str, ...]]
    """What is measured of each sample, as arrays of the `.npz` are named."""
    logged: ClassVar[tuple[str, ...]]
    """Columns of the table that TensorBoard gets as curves."""
    legend: ClassVar[str]
    """What tells the curves apart."""
    compared: ClassVar[tuple[str, str]] = ("", "")
    """Columns of measurement and theory, where there is one."""

    def __init__(self, against: Literal["time", "effective_noise"] = "time") -> None:
        super().__init__()
        self.against = against
        if against == "effective_noise":
            self.name = f"{self.name}_against_noise"
        self.noise: Floats | None = None
        """Effective noise at each time, where curves are drawn against it."""

    @abstractmethod
    def lines(self) -> Iterable[Line]:
        """List the curves, shallow to deep."""

    @abstractmethod
    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Measure a batch: shape (quantities, T, curves, B)."""

    @abstractmethod
    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Make the columns of one row.

        Args:
            samples: What was measured, shape (quantities, N).
            sources: Where each sample is from, shape (N,).
            time: Number of the time.
            line: The curve.
        """

    def curve_names(self) -> list[str]:
        """Name the measured curves, for the `.npz`."""
        return [line.name for line in self.lines()]

    def panels(self, results: Results) -> Sequence[Panel]:
        """Arrange the columns' curves in panels."""
        return ()

    def figures(self, results: Results) -> dict[str, Figure]:
        """Draw the pictures, by the name of their file."""
        critical = self.critical_time(results.lines[0])
        panels = self.panels(results)
        figure = curve_figure(results.x, results.xlabel, panels, self.legend, critical)
        return {self.name: figure}

    def charts(self, results: Results) -> dict[str, Curves]:
        """Choose TensorBoard's curves, by tag; all tags have the same curves."""
        return {f"{self.name}/{column}": results.curves[column] for column in self.logged}

    def tables(self, results: Results) -> dict[str, list[Row]]:
        """Make the tables besides `{name}.csv`, by the name of their file."""
        if not any(self.compared):
            return {}
        measured, theory = (results.curves[column] for column in self.compared)
        rows: list[Row] = [
            {
                **line.columns,
                **deviation(
                    results.x, measured[line.name], theory[line.name], self.critical_time(line)
                ),
            }
            for line in results.lines
            if not np.isnan(theory[line.name]).any()
        ]
        return {f"{self.name}_deviation": rows} if rows else {}

    def theory(self, line: Line, name: str) -> Floats:
        """Give what theory predicts for a curve, shape (T,); NaN where it says nothing."""
        predicted = self.sources[line.sources[0]].theory.get(name)
        if predicted is None:
            return np.full(len(self.times), np.nan)
        curve: Floats = predicted[:, line.predicted].numpy()
        return curve

    def critical_time(self, line: Line) -> float:
        """Give the predicted transition, in the unit of what is drawn against; NaN for none."""
        return self.sources[line.sources[0]].critical_time

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a single inversion time, and what `Analysis` does."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict" and len(self.times) < 2:
            raise InputError(f"times: {type(self).__name__} draws curves; give at least two times")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an empty table."""
        super().on_predict_start(trainer, pl_module)
        shapes = [(len(self.quantities), len(self.times), len(self.curve_names())), ()]
        if self.against == "effective_noise":
            shapes.append((len(self.times),))
        num = self.num_samples(trainer)
        self._tables = [SampleTable(*shape, num_samples=num) for shape in shapes]

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Measure a batch."""
        values = [self.measure(trainer, pl_module, record), torch.tensor(record.source)]
        if self.against == "effective_noise":
            if record.effective_noise is None:
                raise InputError(
                    f"against: {type(pl_module).__name__} measures no effective noise; leave it"
                    " out to draw against the time"
                )
            values.append(record.effective_noise)
        for table, x in zip(self._tables, values, strict=True):
            table.update(record.index.cpu(), x.cpu())

    def compute(self, pl_module: ForwardBackwardModule) -> list[NDArray[Any]]:
        """Gather the processes' tables: sample indices, values, sources, effective noise."""
        tables = [table.to(pl_module.device).compute() for table in self._tables]
        self._tables = []
        return [tables[0][0], *(values for _, values in tables)]

    def write(self, trainer: Trainer, folder: str, measured: list[NDArray[Any]]) -> None:
        """Summarise, and write everything."""
        index, values, source, *noise = measured
        if not len(index):
            raise InputError("data: none of the images can be read; give others")
        source = source.astype(np.int64)
        self.noise = noise[0].astype(np.float64).mean(-1) if noise else None
        masks = [(line, np.isin(source, line.sources)) for line in self.lines()]
        masks = [(line, mask) for line, mask in masks if mask.any()]
        lines = [line for line, _ in masks]
        rows: list[Row] = []
        for k, time in enumerate(self.times):
            for line, mask in masks:
                columns = self.summarise(values[:, k, line.curve, mask], source[mask], k, line)
                rows.append(
                    {"process": self.axis.process, "time": time, **line.columns, **columns}
                )
                if self.noise is not None:
                    rows[-1]["effective_noise"] = float(self.noise[k])
                rows[-1].update(self.image_counts)
        curves = {
            column: {
                line.name: np.array([row[column] for row in rows[j :: len(lines)]], dtype=float)
                for j, line in enumerate(lines)
            }
            for column in rows[0]
            if column not in ("process", "time", *lines[0].columns)
        }
        results = Results(
            np.array(self.times) if self.noise is None else self.noise,
            self.axis.label if self.noise is None else "effective noise ε(t)",
            lines,
            curves,
            values,
            source,
        )
        measured_curves = {"time": self.times, "curve": self.curve_names()}
        samples = {**measured_curves, "index": index, "source": source}
        samples |= zip(self.quantities, values, strict=True)
        write_samples(folder, self.name, samples)
        for name, figure in self.figures(results).items():
            write_figure(folder, name, figure)
            log_figure(trainer.loggers, name, figure)
        for name, table in self.tables(results).items():
            write_csv(folder, name, table)
        write_csv(folder, self.name, rows)
        log_curves(trainer.loggers, self.charts(results), self.axis, self.times)
