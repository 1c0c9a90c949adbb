"""How much of a datum's tree survives the forward-backward experiment."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.beliefs import belief_in_truth
from lit_hier.callbacks.curves import CurveAnalysis, Floats, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures.plots import Panel
from lit_hier.inference import mean_field
from lit_hier.metrics import standard_error, std_between
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm import Tree


def trees_of(
    record: ForwardBackward, analysis: CurveAnalysis, pl_module: ForwardBackwardModule
) -> tuple[Tree, Tree, Tree]:
    """Give a record's trees, before and after, and its marginals.

    Raises:
        InputError: It has none.
    """
    if record.tree_start is None or record.tree_reversed is None or record.marginals is None:
        raise InputError(
            f"model: {type(analysis).__name__} needs trees, which {type(pl_module).__name__} does"
            " not give; use it with a BPDenoiser"
        )
    return record.tree_start, record.tree_reversed, record.marginals


def summarise_truth(
    samples: Floats, sources: NDArray[np.int64], theory: float
) -> dict[str, float]:
    """Make the columns that say how much of the truth is left.

    Args:
        samples: Probability of the true symbols and share of unchanged ones, shape (2, N).
        sources: Where each sample is from, shape (N,).
        theory: The predicted probability.
    """
    marginal, unchanged = samples.astype("float64")
    return {
        "marginal": float(marginal.mean()),
        "unchanged": float(unchanged.mean()),
        "sem": standard_error(marginal),
        "count": len(marginal),
        "theory": float(theory),
        "unchanged_sem": standard_error(unchanged),
        "grammars": len(np.unique(sources)),
        "grammar_std": std_between(marginal, sources),
    }


class Reconstruction(CurveAnalysis):
    """Probability of the true symbol, and the share of unchanged symbols, per level (Figs. 5, 7).

    Both are averaged over the nodes of a level, then over data, then over grammars: `marginal` is
    the posterior probability that belief propagation gives the symbol of x_start, `unchanged` says
    how often the sample drawn from the posterior has it again. Their expectations are equal.

    Writes, besides what `CurveAnalysis` lists: `reconstruction.csv` with columns process, time,
    level, marginal, unchanged, sem (of `marginal`, over data), count, theory (mean field; NaN
    where it says nothing), unchanged_sem, grammars, grammar_std (standard deviation of
    `marginal` between grammars; 0 for one); `reconstruction.npz` with the arrays `marginal` and
    `unchanged` (time, curve, index), `time`, `curve`, `index`, `source`. Logs to TensorBoard the
    curves `reconstruction/marginal`, `reconstruction/unchanged` and `reconstruction/theory`.

    Against the effective noise, the theory is that of the epsilon-process at the measured
    epsilon(t), whatever the process is: no prediction, but a comparison (Fig. 15, right).

    Args:
        against: See `CurveAnalysis`.
    """

    name = "reconstruction"
    quantities = ("marginal", "unchanged")
    logged = ("marginal", "unchanged", "theory")
    legend = "level"
    compared = ("marginal", "theory")

    def lines(self) -> list[Line]:
        """One per level, leaves first."""
        sources = range(len(self.sources))
        levels = range(self.sources[0].num_levels)
        return [Line(f"level {k}", {"level": k}, k, k, sources) for k in levels]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Average over the nodes of each level: shape (2, T, levels, B).

        Raises:
            InputError: The record has no trees.
        """
        tree_start, tree_reversed, marginals = trees_of(record, self, pl_module)
        marginal = [
            belief_in_truth(beliefs, true).mean(-1)
            for beliefs, true in zip(marginals, tree_start, strict=True)
        ]
        unchanged = [
            (new == true).float().mean(-1)
            for new, true in zip(tree_reversed, tree_start, strict=True)
        ]
        return torch.stack((torch.stack(marginal, 1), torch.stack(unchanged, 1)))

    def theory(self, line: Line, name: str) -> Floats:
        """What the sampler's sources say, or the epsilon-process at the effective noise."""
        given = self.sources[0].parameters
        if self.noise is None or not given or given["n"] != given["v"]:
            return super().theory(line, name)
        v, m, s, L = (given[key] for key in "vmsL")
        curve: Floats = mean_field.marginals(np.clip(self.noise, 0, 1), v, m, s, L)[line.curve]
        return curve

    def critical_time(self, line: Line) -> float:
        """The predicted transition; against the effective noise there is no prediction."""
        return math.nan if self.noise is not None else super().critical_time(line)

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Means over data with their standard errors, the theory, the spread of the grammars."""
        return summarise_truth(samples, sources, self.theory(line, "marginal")[time])

    def panels(self, results: Results) -> Sequence[Panel]:
        """Marginals with the theory over them, beside the samples.

        The band shows the spread of the grammars or, of one grammar, the standard error.
        """
        curves = results.curves
        several = any(number.max() > 1 for number in curves["grammars"].values())
        return [
            Panel(
                "probability of the true symbol",
                curves["marginal"],
                bands=curves["grammar_std" if several else "sem"],
                theory=curves["theory"],
                theory_label=(
                    self.sources[0].theory_name if self.noise is None else "mean field, ε-process"
                ),
            ),
            Panel("unchanged symbols", curves["unchanged"], bands=curves["unchanged_sem"]),
        ]
