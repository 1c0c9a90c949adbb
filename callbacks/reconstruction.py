"""How much of a datum's tree survives forward-backward."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Against, Floats, choose_axis
from lit_hier.callbacks.beliefs import belief_in_truth, latents_of
from lit_hier.callbacks.curves import Columns, CurveAnalysis, Line, Results
from lit_hier.diffusion import ForwardBackward, num_levels
from lit_hier.figures import Panel
from lit_hier.metrics import standard_error, std_between
from lit_hier.modules import ForwardBackwardModule


def summarize_truth(samples: Floats, source_indices: NDArray[np.int64], theory: Floats) -> Columns:
    """Compute the columns on the true symbols.

    Args:
        samples: Probability of the true symbols and share of unchanged ones, float64, shape
            (2, T, N).
        source_indices: Index of each sample's source, shape (N,).
        theory: The predicted probability, shape (T,).
    """
    marginal, unchanged = samples
    return {
        "marginal": marginal.mean(-1),
        "unchanged": unchanged.mean(-1),
        "sem": list(map(standard_error, marginal)),
        "count": len(source_indices),
        "theory": theory,
        "unchanged_sem": list(map(standard_error, unchanged)),
        "grammars": len(np.unique(source_indices)),
        "grammar_std": [std_between(x, source_indices) for x in marginal],
    }


class Reconstruction(CurveAnalysis):
    """Probability of the true symbol, and the share of unchanged symbols, per level (Figs. 5, 7).

    Both are averaged over the nodes of a level, then over data, then over grammars: `marginal` is
    the posterior probability of the symbol of x_start, `unchanged` the fraction of posterior
    samples that have the same symbol. Their expected values are equal.

    Writes, besides what `CurveAnalysis` lists:

    - `reconstruction.csv` with columns process, time, level, marginal, unchanged, sem (of
      `marginal`, over data), count, theory (NaN where none applies), unchanged_sem, grammars,
      grammar_std (standard deviation of `marginal` between grammars; 0 for one).
    - `reconstruction.npz` with the arrays `marginal` and `unchanged` (time, curve, index), `time`,
      `curve`, `index`, `source`.

    Logs to TensorBoard the curves `reconstruction/marginal`, `reconstruction/unchanged` and
    `reconstruction/theory`.

    Against the effective noise, the theory is that of the epsilon-process at the measured
    epsilon(t), whatever the process: a comparison, not a prediction (Fig. 15, right).

    Args:
        against: The x axis, see `CurveAnalysis`.

    Raises:
        InputError: `against` is not an x axis.
    """

    name = "reconstruction"
    quantities = ("marginal", "unchanged")
    logged = ("marginal", "unchanged", "theory")
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
        """Average over the nodes of each level: shape (2, T, levels, B)."""
        latents = latents_of(record)
        marginal = [
            belief_in_truth(beliefs, true).mean(-1)
            for beliefs, true in zip(latents.marginals, latents.tree_start, strict=True)
        ]
        unchanged = [
            (new == true).float().mean(-1)
            for new, true in zip(latents.tree_reversed, latents.tree_start, strict=True)
        ]
        return torch.stack((torch.stack(marginal, 1), torch.stack(unchanged, 1)))

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute means over data, standard errors, theory and the spread between grammars."""
        theory = self.prediction(line).marginal[:, line.level]
        return summarize_truth(samples, source_indices, theory)

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw the marginals with theory, next to the unchanged symbols.

        Bands are the spread between grammars or, for one grammar, the standard error.
        """
        several = bool((results.table["grammars"] > 1).any())
        return [
            Panel(
                "probability of the true symbol",
                results.curves("marginal"),
                bands=results.curves("grammar_std" if several else "sem"),
                theory=results.curves("theory"),
                theory_label=self.prediction(results.lines[0]).name,
            ),
            Panel(
                "unchanged symbols",
                results.curves("unchanged"),
                bands=results.curves("unchanged_sem"),
            ),
        ]
