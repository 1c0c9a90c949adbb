"""How much of a datum's tree survives forward-backward."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Against, Floats, choose_axis
from lit_hier.callbacks.beliefs import belief_in_truth, latents_of
from lit_hier.callbacks.curves import Columns, Compared, CurveAnalysis, Line, Results
from lit_hier.callbacks.inversions import inversion_tables
from lit_hier.callbacks.tensorboard import Number
from lit_hier.diffusion import ForwardBackward, Source, num_levels
from lit_hier.figures import Panel
from lit_hier.inference.theory import Prediction
from lit_hier.metrics import average, count_data, locate_transition, wilson
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm.parameters import GrammarParameters

QUANTITIES: Final = ("marginal", "unchanged", "largest", "information")
"""What is measured of each level: see `summarize_truth`."""
LOGGED: Final = (*QUANTITIES, "theory", "largest_theory", "information_theory")
"""The columns of `summarize_truth` that are logged to TensorBoard."""
COMPARED: Final = (
    Compared("marginal", "theory", "sem", "theory_sem"),
    Compared("largest", "largest_theory", "largest_sem", "largest_theory_sem"),
    Compared("information", "information_theory", "information_sem", "information_theory_sem"),
)
"""The columns of `summarize_truth` that theory predicts."""


def measure_truth(record: ForwardBackward, level: int) -> Tensor:
    """Measure a batch at one level, averaged over its nodes: shape (quantities, T, B).

    Without posterior marginals, the probability of the true symbol is estimated by one sample:
    whether it is unchanged; what else they tell is NaN.
    """
    latents = latents_of(record)
    true = latents.tree_start[level]
    unchanged = latents.tree_reversed[level] == true
    if latents.marginals is None:
        share = unchanged.float().mean(-1)
        unknown = torch.full_like(share, math.nan)
        return torch.stack((share, share, unknown, unknown))
    beliefs = latents.marginals[level]
    marginal = belief_in_truth(beliefs, true)
    unchanged = unchanged.to(marginal)
    information = math.log(beliefs.shape[-1]) - torch.special.entr(beliefs).sum(-1)
    quantities = (marginal, unchanged, beliefs.amax(-1), information)
    return torch.stack([x.mean(-1) for x in quantities])


def summarize_truth(
    samples: Floats,
    source_indices: NDArray[np.int64],
    prediction: Prediction,
    level: int,
    is_random: bool,
    crossed: bool = False,
) -> Columns:
    """Compute the columns on the true symbols.

    Args:
        samples: Probability of the true symbols, share of unchanged ones, largest probability and
            information, float64, shape (4, T, N).
        source_indices: Index of each sample's source, shape (N,).
        prediction: The theory.
        level: The level.
        is_random: See `lit_hier.callbacks.analysis.Analysis`, as for `crossed`.
        crossed: Whether all sources have the same data.
    """
    marginal, largest = (average(samples[k], source_indices, is_random, crossed) for k in (0, 2))
    # Information that is complete, or none at all, is as random as a share.
    unchanged, information = (
        average(samples[k], source_indices, shares=True, crossed=crossed) for k in (1, 3)
    )
    low, high = wilson(samples[1], source_indices, crossed)
    return {
        "marginal": marginal.mean,
        "unchanged": unchanged.mean,
        "sem": marginal.sem,
        "count": count_data(source_indices, crossed),
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
        "largest_theory_sem": prediction.largest_error[:, level],
        "information": information.mean,
        "information_sem": information.sem,
        "information_sem_within": information.sem_within,
        "information_theory": prediction.information[:, level],
        "information_theory_sem": prediction.information_error[:, level],
    }


def chance_levels(source: Source, has_symbols: bool) -> dict[str, float]:
    """Return the probabilities of a uniform guess, by their entry in the legend.

    Args:
        source: The source of the data.
        has_symbols: Whether curves below the root are shown too.
    """
    if not isinstance(source, GrammarParameters):
        return {}
    v, n = source.v, source.n
    if n == v or not has_symbols:
        return {f"chance, 1/{n}": 1 / n}
    return {f"chance, 1/{v} (symbols)": 1 / v, f"chance, 1/{n} (class)": 1 / n}


def transition_numbers(
    x: Floats,
    samples: Floats,
    source_indices: NDArray[np.int64],
    prediction: Prediction,
    num_classes: int,
    crossed: bool = False,
) -> dict[str, Number]:
    """Compute the place and the width of the transition of the class, for a run's summary.

    Args:
        x: Inversion times, shape (T,).
        samples: The probability of the true class, shape (T, N).
        source_indices: Index of each sample's source, shape (N,).
        prediction: The theory.
        num_classes: n.
        crossed: Whether all sources have the same data, see `average`.

    Returns:
        See `lit_hier.metrics.locate_transition`.
    """
    return locate_transition(
        x,
        average(samples.astype(np.float64, order="C"), source_indices).mean,
        samples,
        source_indices,
        prediction.marginal[:, -1],
        prediction.marginal_error[:, -1],
        1 / num_classes,
        crossed,
    )


def truth_panels(
    results: Results, what: str, theory_label: str, chance: Mapping[str, float]
) -> list[Panel]:
    """Arrange the curves of `summarize_truth`, with bands of one standard error.

    Args:
        results: The results.
        what: What a node's symbol is called.
        theory_label: The theory's entry in the legend.
        chance: Levels of chance, by their entry in the legend.
    """
    return [
        Panel(
            f"probability of the true {what}",
            results.curves("marginal"),
            bands=results.curves("sem"),
            theory=results.curves("theory"),
            theory_label=theory_label,
            chance=chance,
        ),
        Panel(
            "largest probability",
            results.curves("largest"),
            bands=results.curves("largest_sem"),
            theory=results.curves("largest_theory"),
            theory_label=theory_label,
            chance=chance,
        ),
        Panel(
            f"share unchanged ({what})",
            results.curves("unchanged"),
            bands=results.curves("unchanged_sem"),
            chance=chance,
        ),
        Panel(
            f"information on the {what} (nats)",
            results.curves("information"),
            bands=results.curves("information_sem"),
            theory=results.curves("information_theory"),
            theory_label=theory_label,
            unit="nats",
        ),
    ]


class Reconstruction(CurveAnalysis):
    """Probability of the true symbol, and the share of unchanged symbols, per level (Figs. 5, 7).

    All are averaged over the nodes of a level, then over data, then over grammars: `marginal` is
    the posterior probability of the symbol of x_start, `unchanged` the fraction of posterior
    samples that have the same symbol. Their expected values are equal. A network that denoises
    does not compute the posterior of latents: its samples are parsed, a node that no tree of the
    grammar explains counts as changed, `marginal` is `unchanged`, one sample's estimate of it, and
    `largest` and `information` are NaN. `largest` is the largest
    posterior probability, whatever its symbol: the paper's captions name it, its text the true
    symbol. The two agree where inference succeeds; `largest` is never smaller.

    `information` is I(X; x_t) = ln k - H in nats, with H the entropy of the posterior of a node's
    symbol X and k the number of symbols: v below the root, n at the root. It is the mutual
    information of X and the corrupted datum if X is uniform; in one grammar some symbols are more
    frequent than others, so that it does not fall to 0 below the root. Under the epsilon-process
    it is what the beliefs claim, see `lit_hier.processes.NoiseProcess.information`.

    Standard errors count grammars as independent, see `lit_hier.metrics.average`, which also says
    where they are NaN.

    Writes, besides what `CurveAnalysis` lists:

    - `reconstruction.csv` with columns process, time, level, marginal, unchanged, sem (standard
      error of `marginal`), count, theory (of `marginal`; NaN where none applies), unchanged_sem,
      grammars, grammar_std (standard deviation of `marginal` between grammars; NaN for one),
      sem_within (standard error within these grammars), unchanged_sem_within, unchanged_low and
      unchanged_high (95 % confidence interval, see `lit_hier.metrics.wilson`), largest,
      largest_sem, largest_sem_within, theory_sem (standard error of `theory`; 0 for a closed
      form), largest_theory, largest_theory_sem, information, information_sem,
      information_sem_within, information_theory (from density evolution; NaN for a closed form),
      information_theory_sem.
    - `reconstruction_inversion.csv`, for several levels, with a row per level above the leaves:
      process, level, inversion (where the curve of `marginal` falls below that of the leaves, on
      the x axis; NaN if that is not significant, see `lit_hier.metrics.functional.inversion`),
      inversion_sem, difference (the largest by which the leaves are above the level),
      difference_sem (from differences sample by sample), difference_time (its x),
      theory_inversion (the same for the theory at this depth and these times; NaN if there is
      none) and inverted (`yes` or `none`).
    - `reconstruction.npz` with the arrays `marginal`, `unchanged`, `largest` and `information`
      (time, curve, index), `time`, `curve`, `index`, `source`.

    Logs to TensorBoard the curves `reconstruction/COLUMN` for the columns marginal, unchanged,
    largest, information, theory, largest_theory and information_theory.

    For grammars, the numbers place, width, theory_place and theory_width of the run's summary are
    those of the transition of the class, see `transition_numbers`; other x axes than the time have
    none.

    Against the effective noise there is a further column epsilon_theory, drawn dotted: the mean
    field of `marginal` for the epsilon-process at the measured epsilon(t), whatever the process: a
    comparison, not a prediction (Fig. 15, right).

    Args:
        against: The x axis, see `CurveAnalysis`.

    Raises:
        InputError: `against` is not an x axis.
    """

    name = "reconstruction"
    suffixes = ("", "_deviation", "_inversion")
    quantities = QUANTITIES
    logged = LOGGED
    legend = "level"
    compared = COMPARED
    needs_latents = True
    main_panel = 2

    def __init__(self, against: Against = "time") -> None:
        super().__init__(choose_axis(against))

    def lines(self) -> list[Line]:
        """One per level, leaves first."""
        source_indices = range(len(self.sources))
        levels = range(num_levels(self.sources[0]))
        return [Line(f"level {k}", {"level": k}, k, k, source_indices) for k in levels]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Average over the nodes of each level: shape (4, T, levels, B)."""
        levels = range(len(latents_of(record).tree_start))
        return torch.stack([measure_truth(record, level) for level in levels], dim=2)

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages over data and grammars, standard errors and theory."""
        prediction, compared = self.prediction(line), self.comparison(line)
        columns = summarize_truth(
            samples, source_indices, prediction, line.level, self.is_random, self.crossed
        )
        if compared is None:
            return columns
        return {**columns, "epsilon_theory": compared.marginal[:, line.level]}

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Add where each level's curve crosses that of the leaves; find the transition."""
        tables = super().tables(results)
        quantity, source = self.quantities.index("marginal"), self.sources[0]
        if isinstance(source, GrammarParameters) and not self.x_axis.column:
            self.numbers = {}
            for group, part in self.split(results):
                root = part.lines[-1]
                numbers = transition_numbers(
                    part.x,
                    part.values[quantity, :, root.curve],
                    part.source_indices,
                    self.prediction(root),
                    source.n,
                    self.crossed,
                )
                of = f" ({group.name})" * bool(group.name)
                self.numbers |= {f"{name}{of}": number for name, number in numbers.items()}
        return tables | inversion_tables(self, results, quantity, "theory")

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw marginals, largest ones, unchanged symbols and information, with theory."""
        first = results.lines[0]
        chance = chance_levels(self.sources[0], len(results.lines) > 1)
        panels = truth_panels(results, "symbol", self.prediction(first).name, chance)
        compared = self.comparison(first)
        if compared is not None:
            curves = results.curves("epsilon_theory")
            panels[0] = replace(panels[0], compared=curves, compared_label=compared.name)
        return panels
