"""What share of a denoiser's samples the grammar explains, level by level."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Floats, InversionTimes
from lit_hier.callbacks.beliefs import latents_of
from lit_hier.callbacks.curves import Columns, CurveAnalysis, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.figures import Panel
from lit_hier.figures.learning import is_learning, learning_figure
from lit_hier.inference.theory import leaf_information
from lit_hier.io.devices import upload
from lit_hier.metrics import average, count_data, wilson
from lit_hier.modules import ForwardBackwardModule

_NONE_LEFT: Final = 1e-3  # share of a leaf's information, below which samples are uniform


class Validity(CurveAnalysis):
    r"""Share of samples, and of their nodes, that the grammar explains; copies of training data.

    A node of level l is valid if rules of the grammar explain the whole subtree below it; a string
    is valid up to level l if all its nodes of level l are. At the last time of a channel, such as
    masked fraction 1, samples are generated from pure noise.

    A copy is a sample that equals one of the P data that its denoiser was trained on. Samples of
    exact inference from pure noise are uniform over the grammar's
    :math:`n\, m^{(s^L - 1)/(s - 1)}` data, so that a share of P over this number are copies by
    chance. Invalid samples are never copies: by chance, a denoiser has this share of its valid
    samples. At other times the samples of exact inference on the same data tell how many would be
    copies.

    Standard errors are those of the data and of the networks of one training, see `CurveAnalysis`
    and `lit_hier.metrics.average`, which also says where they are NaN.

    Writes, besides what `CurveAnalysis` lists:

    - `validity.csv` with columns process, time, for trained denoisers num_train and step, level (1
      to L), nodes (share of valid nodes), nodes_sem, strings (share of strings valid up to this
      level), sem (standard error of `strings`), strings_low and strings_high (its 95 % confidence
      interval, see `lit_hier.metrics.wilson`), copies (share of copies, the same at all levels;
      NaN where the training data are unknown, as for exact inference), copies_sem,
      copies_by_chance (of samples that are uniform over valid data, times the share of valid
      ones, at times whose leaves hold less than a thousandth of their information; NaN at
      others), copies_exact (share of the samples of exact inference at this time that are among
      these P data; NaN if it was not run), copies_exact_sem, networks (of this training), count
      (of data), sem_within (of `strings`, within these networks).
    - `validity.npz` with the arrays `nodes`, `strings` and `copy` (position in the training set of
      the datum that a sample equals; infinity if there is none; time, curve, index), `time`,
      `curve`, `index`, `source`.
    - `validity_learning.png`, for several trainings: the same against the number of training data
      or, if these have one number, against the training steps, at the last time.

    Logs to TensorBoard the curves `validity/nodes`, `validity/strings` and `validity/copies`, and
    the figures `validity` and `validity_learning`. The run's summary has the share of valid
    strings at the last time.
    """

    name = "validity"
    suffixes = ("", "_deviation", "_learning")
    quantities = ("nodes", "strings", "copy")
    logged = ("nodes", "strings", "copies")
    legend = "level"
    needs_latents = True
    least_times = 1

    def __init__(self) -> None:
        super().__init__(InversionTimes())
        self._positions: dict[bytes, int] = {}
        self._num_known = 0
        self._exact: Floats = np.empty((0, 0))
        self._valid: Floats = np.empty((0, 0))
        self._sampled: NDArray[np.int64] = np.empty(0, np.int64)

    def lines(self) -> list[Line]:
        """One per level above the leaves, which are always valid."""
        indices, levels = range(len(self.sources)), range(1, self.grammar(0).L + 1)
        return [Line(f"level {k}", {"level": k}, k - 1, k, indices) for k in levels]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Index the training data."""
        super().on_predict_start(trainer, pl_module)
        self._is_uniform = np.array([time == self.axis.end for time in self.times])
        if self.noise_process is not None:
            information = leaf_information(self.noise_process, self.times, self.grammar(0).v)
            self._is_uniform |= information < _NONE_LEFT
        leaves: Tensor | None = getattr(
            getattr(trainer, "datamodule", None), "training_leaves", None
        )
        rows = [] if leaves is None else list(leaves.long().numpy())
        self._num_known = len(rows)
        self._positions = {row.tobytes(): k for k, row in enumerate(rows)}

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Parse, and look up the samples: shape (3, T, L, B)."""
        leaves, *latents = latents_of(record).tree_reversed
        valid = [level >= 0 for level in latents]
        nodes = torch.stack([x.float().mean(-1) for x in valid], dim=1)
        strings = torch.stack([x.all(-1).float() for x in valid], dim=1)
        copies = [
            [self._positions.get(row.tobytes(), math.inf) for row in rows]
            for rows in leaves.long().cpu().numpy()
        ]
        copy = upload(torch.tensor(copies).to(nodes.dtype), nodes.device)
        copy = copy[:, None].expand_as(nodes)
        return torch.stack((nodes, strings, copy))

    def write(self, trainer: Trainer, measured: list[NDArray[Any]]) -> None:
        """Keep the copies of exact inference and the valid samples, which copies depend on."""
        exact = [
            k for group in self.source_groups() if group.is_exact for k in group.source_indices
        ]
        _, values, source_indices, *_ = measured
        self._exact = values[2, :, 0, np.isin(source_indices, exact)].T
        self._valid = values[1, :, -1].astype(float)
        self._sampled = source_indices.astype(np.int64)
        super().write(trainer, measured)

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute shares, their errors, and what chance gives."""
        nodes, strings = (
            average(x, source_indices, shares=True, crossed=self.crossed) for x in samples[:2]
        )
        low, high = wilson(samples[1], source_indices, self.crossed)
        copies, copies_sem = self._count_copies(samples[2], source_indices, line)
        exact = self._count_copies(self._exact, np.zeros(self._exact.shape[1], np.int64), line)
        return {
            "nodes": nodes.mean,
            "nodes_sem": nodes.sem,
            "strings": strings.mean,
            "sem": strings.sem,
            "strings_low": low,
            "strings_high": high,
            "copies": copies,
            "copies_sem": copies_sem,
            "copies_by_chance": np.where(self._is_uniform, self._chance(line), np.nan),
            "copies_exact": exact[0],
            "copies_exact_sem": exact[1],
            "networks": len(np.unique(source_indices)),
            "count": count_data(source_indices, self.crossed),
            "sem_within": strings.sem_within,
        }

    def _count_copies(
        self, copy: Floats, source_indices: NDArray[np.int64], line: Line
    ) -> tuple[Floats, Floats]:
        """Return the share of samples among a line's training data, and its error."""
        size = float(line.columns.get("num_train", math.nan))
        if not copy.size or not size <= self._num_known:
            unknown = np.full(len(self.times), np.nan)
            return unknown, unknown
        found = average(
            (copy < size).astype(float), source_indices, shares=True, crossed=self.crossed
        )
        return found.mean, found.sem

    def _chance(self, line: Line) -> Floats:
        """Return the share of a line's training data in its samples if valid ones are uniform."""
        _, n, m, s, L = self.grammar(line.source_indices[0])
        size = float(line.columns.get("num_train", math.inf))
        if not math.isfinite(size):
            return np.full(len(self.times), np.nan)
        sampled = np.isin(self._sampled, line.source_indices)
        valid = average(self._valid[:, sampled], self._sampled[sampled], crossed=self.crossed)
        return np.asarray(valid.mean * (int(size) / (n * m ** ((s**L - 1) // (s - 1)))))

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw valid strings and nodes, with their standard errors."""
        return [
            Panel(
                "share of strings valid up to a level",
                results.curves("strings"),
                bands=results.curves("sem"),
            ),
            Panel(
                "share of nodes valid", results.curves("nodes"), bands=results.curves("nodes_sem")
            ),
        ]

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Keep the main numbers."""
        self.numbers = {}
        for group, part in self.split(results):
            name, of = part.lines[-1].name, f" ({group.name})" * bool(group.name)
            share, sem = (part.curves(column)[name][-1] for column in ("strings", "sem"))
            self.numbers[f"valid strings{of}"] = (float(share), float(sem))
        return super().tables(results)

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw shares against the time and, for several trainings, against these."""
        figures = super().figures(results, tables)
        if is_learning(results.table):
            figures[f"{self.name}_learning"] = learning_figure(results.table)
        return figures
