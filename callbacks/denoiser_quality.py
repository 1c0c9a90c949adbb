"""How far a trained denoiser's beliefs are from exact inference."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.analysis import SourceGroup
from lit_hier.callbacks.axes import Floats, InversionTimes
from lit_hier.callbacks.beliefs import latents_of
from lit_hier.callbacks.curves import Columns, CurveAnalysis, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures import Panel, curve_figure
from lit_hier.figures.learning import is_learning, learning_figure
from lit_hier.inference.theory import leaf_information
from lit_hier.metrics import Average, average, count_data
from lit_hier.modules import ForwardBackwardModule

_MEASURED: Final = ("kl", "excess_cross_entropy", "agreement")
_TIE: Final = 1e-4  # relative difference of equal probabilities, which rounding makes


class DenoiserQuality(CurveAnalysis):
    r"""Distance of a trained denoiser's beliefs from exact inference, per leaf and time.

    With p(x) the exact posterior of a leaf's symbol given x_t, q(x) the denoiser's belief and x_0
    the true symbol, for each leaf that is to be predicted (under masking the masked ones, else
    all)

    - `kl` is :math:`\sum_x p(x) \ln (p(x) / q(x))`, nats; infinite where the denoiser excludes
      what is possible;
    - `excess_cross_entropy` is :math:`\ln p(x_0) - \ln q(x_0)`, nats; its expected value is that
      of `kl`, and it is how far the denoiser's loss is from the lowest one;
    - `agreement` tells whether the denoiser's most likely symbol is one of those that are most
      likely by exact inference, which often are several.

    They are averaged over leaves: the sum over all predicted leaves of all data, over the number
    of these. The standard error over data is that of this ratio to first order; for several
    networks with one training see `CurveAnalysis` and `lit_hier.metrics.average`, which also says
    where errors are NaN. Times without a leaf to
    predict are NaN.

    Writes, besides what `CurveAnalysis` lists:

    - `denoiser_quality.csv` with columns process, time, num_train, step, kl, sem (standard error
      of `kl`), excess_cross_entropy, excess_cross_entropy_sem, agreement, agreement_sem, leaves
      (predicted ones per datum), networks (of this training), count (of data), sem_within (of
      `kl`, within these networks), information_share (I(x_0; x_t) of a leaf over ln v, see
      `lit_hier.processes.NoiseProcess.information`; NaN if it is unknown). Exact inference, whose
      num_train is infinity, has 0, 0 and 1.
    - `denoiser_quality_mean.csv` with a row per training: process, num_train, step, kl, sem,
      excess_cross_entropy, excess_cross_entropy_sem, agreement, agreement_sem: averages over the
      times, weighted so that equal amounts of information have equal weight (equal stretches of
      time, where it is unknown), from the first time with leaves to predict, first_time, to the
      last one, last_time.
    - `denoiser_quality.npz` with the arrays `leaves` (predicted ones), `kl`,
      `excess_cross_entropy` and `agreement` (sums over them; time, curve, index), `time`, `curve`,
      `index`, `source`.
    - `denoiser_quality_learning.png`, for several trainings: the same against the number of
      training data or, if these have one number, against the training steps.

    Logs to TensorBoard the curves `denoiser_quality/kl`, `denoiser_quality/excess_cross_entropy`
    and `denoiser_quality/agreement`, and both figures. The run's summary has the mean of `kl`.

    Raises:
        InputError: In `setup`, the sampler is not a trained denoiser.
    """

    name = "denoiser_quality"
    suffixes = ("", "_deviation", "_mean", "_learning")
    quantities = ("leaves", *_MEASURED)
    logged = _MEASURED
    legend = "training"

    def __init__(self) -> None:
        super().__init__(InversionTimes())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject samplers that were not trained, and runs as the base class does."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        if not self.trainings:
            raise InputError(
                f"model: DenoiserQuality compares trained denoisers with exact inference, but"
                f" {type(pl_module).__name__} is not trained; use it with a LearnedDenoiser"
            )
        self._information = np.full(len(self.times), np.nan)
        if self.noise_process is not None:
            v = self.grammar(0).v
            self._information = leaf_information(self.noise_process, self.times, v)

    def lines(self) -> list[Line]:
        """One curve per training."""
        return [Line("", {}, 0, 0, range(len(self.sources)))]

    def curve_names(self) -> list[str]:
        """Name what is averaged over."""
        return ["leaves"]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Sum over the leaves to predict: shape (4, T, 1, B)."""
        denoising = record.denoising
        assert denoising is not None, "a trained denoiser's records hold its beliefs"
        true = latents_of(record).tree_start[0]
        sums = []
        for q, p, predicted in zip(
            denoising.beliefs, denoising.exact, denoising.predicted, strict=True
        ):
            q, p = q.double(), p.double()
            kl = (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)
            of_true = [x.gather(-1, true[..., None]).squeeze(-1).log() for x in (p, q)]
            chosen = p.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1)
            agreement = (chosen >= (1 - _TIE) * p.amax(-1)).double()
            measured = (torch.ones_like(kl), kl, of_true[0] - of_true[1], agreement)
            sums.append(torch.stack([x.where(predicted, 0).sum(-1) for x in measured]))
        return torch.stack(sums, dim=1)[:, :, None]

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages per leaf and their errors."""
        columns: dict[str, Floats] = {}
        for name, sums in zip(_MEASURED, samples[1:], strict=True):
            found = self._average(per_leaf(sums, samples[0], source_indices), source_indices)
            columns |= {name: found.mean, f"{name}_sem": found.sem}
            if name == "kl":
                within = found.sem_within
        columns["sem"] = columns.pop("kl_sem")
        if line.columns["num_train"] == math.inf:  # by definition, not by chance
            columns |= {x: np.zeros_like(columns[x]) for x in columns if x.endswith("sem")}
            within = np.zeros_like(within)
        return {
            "kl": columns.pop("kl"),
            "sem": columns.pop("sem"),
            **columns,
            "leaves": samples[0].mean(-1),
            "networks": len(np.unique(source_indices)),
            "count": count_data(source_indices, self.crossed),
            "sem_within": within,
            "information_share": self._information,
        }

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Average over times; keep the main numbers."""
        parts = self.split(results)
        rows, names = [self._mean(*part) for part in parts], [group.name for group, _ in parts]
        self.numbers = {
            f"kl ({name})": (row["kl"], row["sem"]) for name, row in zip(names, rows, strict=True)
        }
        table = DataFrame(rows)
        table.insert(0, "process", self.axis.process)
        return {**super().tables(results), f"{self.name}_mean": table}

    def _mean(self, group: SourceGroup, results: Results) -> dict[str, float]:
        """Average one training over the times with leaves to predict."""
        leaves = results.values[0, :, 0].astype(float)
        known = np.flatnonzero(leaves.any(-1))
        row = dict(group.columns)
        x = results.x if np.isnan(self._information).any() else self._information
        weights = _trapezoid(x[known])
        for name, sums in zip(_MEASURED, results.values[1:, :, 0].astype(float), strict=True):
            ratios = per_leaf(sums[known], leaves[known], results.source_indices)
            found = self._average(weights @ ratios, results.source_indices)
            error = "sem" if name == "kl" else f"{name}_sem"
            row |= {name: float(found.mean), error: 0.0 if group.is_exact else float(found.sem)}
        ends = (results.x[known[0]], results.x[known[-1]]) if len(known) else (math.nan, math.nan)
        return row | dict(zip(("first_time", "last_time"), ends, strict=True))

    def _average(self, values: Floats, source_indices: NDArray[np.int64]) -> Average:
        """Average numbers that may be infinite, whose error is NaN."""
        with np.errstate(invalid="ignore"):
            return average(values, source_indices, crossed=self.crossed)

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw the distances against the time and, for several trainings, against these."""
        figure = curve_figure(results.x, results.xlabel, self.panels(results), self.legend)
        figures = {self.name: figure}
        if is_learning(results.table):
            mean = tables[f"{self.name}_mean"]
            figures[f"{self.name}_learning"] = learning_figure(results.table, mean)
        return figures

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw each training but exact inference, from which the distances are."""
        groups = [group for group, _ in self.split(results)]
        names = [group.name for group in groups if not group.is_exact or len(groups) == 1]

        def panel(label: str, column: str, error: str, log: bool = False) -> Panel:
            curves, errors = results.curves(column), results.curves(error)
            return Panel(
                label,
                {name: curves[name] for name in names},
                bands={name: errors[name] for name in names},
                unit=label,
                log=log,
            )

        return [
            panel("KL from exact inference (nats per leaf)", "kl", "sem", log=True),
            panel(
                "excess cross-entropy (nats per leaf)",
                "excess_cross_entropy",
                "excess_cross_entropy_sem",
            ),
            panel("most likely symbol agrees", "agreement", "agreement_sem"),
        ]


def per_leaf(sums: Floats, leaves: Floats, source_indices: NDArray[np.int64]) -> Floats:
    """Return numbers per datum whose average is a ratio of sums, and whose error is that ratio's.

    For sums x and numbers of leaves n of a network's data, with means over the data, the ratio is
    R = mean(x) / mean(n), and a datum's number is R + (x - R n) / mean(n), to first order in the
    deviations (Cochran, "Sampling Techniques", 1977, Section 2.11).

    Args:
        sums: A sum over leaves per datum, shape (T, N).
        leaves: The number of these leaves, shape (T, N).
        source_indices: The network of each datum, shape (N,).

    Returns:
        Shape (T, N); NaN at times without leaves, infinity where a sum is infinite.
    """
    found = np.empty_like(sums)
    for source in np.unique(source_indices):
        chosen = source_indices == source
        x, n = sums[:, chosen], leaves[:, chosen]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = n.mean(-1, keepdims=True)
            ratio = x.mean(-1, keepdims=True) / mean
            found[:, chosen] = np.where(np.isfinite(ratio), ratio + (x - ratio * n) / mean, ratio)
    return found


def _trapezoid(x: Floats) -> Floats:
    """Return the weights of the trapezoidal rule for a mean over the range of x."""
    gaps = np.abs(np.diff(x))
    weights = np.pad(gaps, (1, 0)) + np.pad(gaps, (0, 1))
    total = weights.sum()
    return weights / total if total else np.full(len(x), 1 / max(len(x), 1))
