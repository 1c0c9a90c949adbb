"""How much of a datum's tree survives forward-backward."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Against, Floats, choose_axis
from lit_hier.callbacks.beliefs import belief_in_truth, latents_of
from lit_hier.callbacks.curves import Columns, CurveAnalysis, Line, Results
from lit_hier.callbacks.inversions import inversion_table
from lit_hier.diffusion import ForwardBackward, num_levels
from lit_hier.figures import Panel
from lit_hier.inference.theory import Prediction
from lit_hier.metrics import average, wilson
from lit_hier.modules import ForwardBackwardModule

QUANTITIES: Final = ("marginal", "unchanged", "largest")
"""What is measured of each level: see `summarize_truth`."""


def measure_truth(record: ForwardBackward, level: int) -> Tensor:
    """Measure a batch at one level, averaged over its nodes: shape (quantities, T, B)."""
    latents = latents_of(record)
    beliefs, true = latents.marginals[level], latents.tree_start[level]
    marginal = belief_in_truth(beliefs, true)
    unchanged = (latents.tree_reversed[level] == true).to(marginal)
    return torch.stack([x.mean(-1) for x in (marginal, unchanged, beliefs.amax(-1))])


def summarize_truth(
    samples: Floats, source_indices: NDArray[np.int64], prediction: Prediction, level: int
) -> Columns:
    """Compute the columns on the true symbols.

    Args:
        samples: Probability of the true symbols, share of unchanged ones and largest probability,
            float64, shape (3, T, N).
        source_indices: Index of each sample's source, shape (N,).
        prediction: The theory.
        level: The level.
    """
    marginal, largest = (average(samples[k], source_indices) for k in (0, 2))
    unchanged = average(samples[1], source_indices, shares=True)
    low, high = wilson(samples[1], source_indices)
    return {
        "marginal": marginal.mean,
        "unchanged": unchanged.mean,
        "sem": marginal.sem,
        "count": len(source_indices),
        "theory": prediction.marginal[:, level],
        "unchanged_sem": unchanged.sem,
        "grammars": len(np.unique(source_indices)),
        "grammar_std": marginal.grammar_std,
        "sem_within": marginal.sem_within,
        "unchanged_sem_within": unchanged.sem_within,
        "unchanged_low": low,
        "unchanged_high": high,
        "largest": largest.mean,
        "largest_sem": largest.sem,
        "largest_sem_within": largest.sem_within,
        "theory_sem": prediction.marginal_error[:, level],
        "largest_theory": prediction.largest[:, level],
    }


def truth_panels(results: Results, what: str, theory_label: str) -> list[Panel]:
    """Arrange the curves of `summarize_truth`, with bands of one standard error.

    Args:
        results: The results.
        what: What a node's symbol is called.
        theory_label: The theory's entry in the legend.
    """
    return [
        Panel(
            f"probability of the true {what}",
            results.curves("marginal"),
            bands=results.curves("sem"),
            theory=results.curves("theory"),
            theory_label=theory_label,
        ),
        Panel(
            "largest probability",
            results.curves("largest"),
            bands=results.curves("largest_sem"),
            theory=results.curves("largest_theory"),
            theory_label=theory_label,
        ),
        Panel(
            f"share unchanged ({what})",
            results.curves("unchanged"),
            bands=results.curves("unchanged_sem"),
        ),
    ]


class Reconstruction(CurveAnalysis):
    """Probability of the true symbol, and the share of unchanged symbols, per level (Figs. 5, 7).

    All are averaged over the nodes of a level, then over data, then over grammars: `marginal` is
    the posterior probability of the symbol of x_start, `unchanged` the fraction of posterior
    samples that have the same symbol. Their expected values are equal. `largest` is the largest
    posterior probability, whatever its symbol: the paper's captions name it, its text the true
    symbol. The two agree where inference succeeds; `largest` is never smaller.

    Standard errors count grammars as independent, see `lit_hier.metrics.average`, which also says
    where they are NaN.

    Writes, besides what `CurveAnalysis` lists:

    - `reconstruction.csv` with columns process, time, level, marginal, unchanged, sem (standard
      error of `marginal`), count, theory (of `marginal`; NaN where none applies), unchanged_sem,
      grammars, grammar_std (standard deviation of `marginal` between grammars; NaN for one),
      sem_within (standard error within these grammars), unchanged_sem_within, unchanged_low and
      unchanged_high (95 % confidence interval, see `lit_hier.metrics.wilson`), largest,
      largest_sem, largest_sem_within, theory_sem (standard error of `theory`; 0 for a closed
      form), largest_theory.
    - `reconstruction_inversion.csv`, for several levels, with a row per level above the leaves:
      process, level, inversion (where the curve of `marginal` falls below that of the leaves, on
      the x axis; NaN if that is not significant, see `lit_hier.metrics.functional.inversion`),
      inversion_sem, difference (the largest by which the leaves are above the level),
      difference_sem (from differences sample by sample), difference_time (its x),
      theory_inversion (the same for the theory at this depth and these times; NaN if there is
      none) and inverted (`yes` or `none`).
    - `reconstruction.npz` with the arrays `marginal`, `unchanged` and `largest` (time, curve,
      index), `time`, `curve`, `index`, `source`.

    Logs to TensorBoard the curves `reconstruction/marginal`, `reconstruction/unchanged`,
    `reconstruction/largest` and `reconstruction/theory`.

    Against the effective noise, the theory is that of the epsilon-process at the measured
    epsilon(t), whatever the process: a comparison, not a prediction (Fig. 15, right).

    Args:
        against: The x axis, see `CurveAnalysis`.

    Raises:
        InputError: `against` is not an x axis.
    """

    name = "reconstruction"
    quantities = QUANTITIES
    logged = (*QUANTITIES, "theory")
    legend = "level"
    compared = ("marginal", "theory")
    needs_latents = True

    def __init__(self, against: Against = "time") -> None:
        super().__init__(choose_axis(against, compare=True))

    def lines(self) -> list[Line]:
        """One per level, leaves first."""
        source_indices = range(len(self.sources))
        levels = range(num_levels(self.sources[0]))
        return [Line(f"level {k}", {"level": k}, k, k, source_indices) for k in levels]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Average over the nodes of each level: shape (3, T, levels, B)."""
        levels = range(len(latents_of(record).tree_start))
        return torch.stack([measure_truth(record, level) for level in levels], dim=2)

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages over data and grammars, standard errors and theory."""
        return summarize_truth(samples, source_indices, self.prediction(line), line.level)

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Add where each level's curve crosses that of the leaves."""
        tables = super().tables(results)
        if len(results.lines) > 1:
            marginal = results.values[self.quantities.index("marginal")]
            tables[f"{self.name}_inversion"] = inversion_table(
                self.axis.process, results, marginal, results.curves("theory")
            )
        return tables

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw the marginals with theory, next to the largest ones and the unchanged symbols.

        Bands are one standard error.
        """
        name = self.prediction(results.lines[0]).name
        return truth_panels(results, "symbol", name)
