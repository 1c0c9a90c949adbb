"""The messages and marginals of belief propagation, level by level."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Against, Floats, choose_axis
from lit_hier.callbacks.curves import (
    Columns,
    Compared,
    CurveAnalysis,
    Curves,
    Line,
    Results,
)
from lit_hier.diffusion import ForwardBackward, Latents, num_levels
from lit_hier.figures import level_figure
from lit_hier.metrics import average
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm import Tree

MESSAGES: Final = ("upward", "downward", "marginal")
"""The kinds of beliefs; each is a field of `lit_hier.inference.theory.Prediction`."""


def latents_of(record: ForwardBackward) -> Latents:
    """Return a record's latents; `needs_latents` promises them."""
    assert record.latents is not None, "the sampler's records lack the latents of its sources"
    return record.latents


def messages_of(record: ForwardBackward) -> tuple[Tree, Tree, Tree]:
    """Return a record's upward messages, downward messages and marginals: see `MESSAGES`."""
    latents = latents_of(record)
    assert latents.upward is not None
    assert latents.downward is not None
    assert latents.marginals is not None
    return latents.upward, latents.downward, latents.marginals


def belief_in_truth(beliefs: Tensor, true: Tensor) -> Tensor:
    """Return the beliefs (T, B, nodes, symbols) in the true symbols (B, nodes): (T, B, nodes)."""
    chosen = true.expand(len(beliefs), -1, -1)[..., None]
    return beliefs.gather(-1, chosen).squeeze(-1)


class Beliefs(CurveAnalysis):
    """Averages of upward, downward and marginal beliefs per level (Figs. 12, 13, 14).

    Each message is a distribution over symbols; `largest` is its largest probability, which the
    paper shows, and `true` the probability of the true symbol, which theory predicts. They agree
    where inference succeeds. Averages are over the nodes of a level, then over data, then over
    grammars; standard deviations over all nodes and all data.

    Writes, besides what `CurveAnalysis` lists:

    - `beliefs.csv` with columns process, time, message (upward, downward or marginal), level,
      true, true_std, largest, largest_std, count (of data), theory, grammars, grammar_std (of
      `true`; NaN for one grammar), sem and sem_within (of `true`), largest_sem,
      largest_sem_within: standard errors, see `lit_hier.metrics.average`; theory_sem (of `theory`;
      0 for a closed form).
    - `beliefs.npz` with the arrays `true`, `true_variance`, `largest` and `largest_variance`
      (time, curve, index), means and variances over the nodes of each datum, and `time`, `curve`,
      `index`, `source`.
    - `beliefs_upward.png`, `beliefs_downward.png`, `beliefs_marginal.png` in place of
      `beliefs.png`.

    Logs to TensorBoard the curves `beliefs/MESSAGE/true`, `beliefs/MESSAGE/largest` and
    `beliefs/MESSAGE/theory`, and the three figures by the names of their files.

    The sampler must return messages: `messages: true`.

    Args:
        against: The x axis, see `CurveAnalysis`.

    Raises:
        InputError: `against` is not an x axis.
    """

    name = "beliefs"
    quantities = ("true", "true_variance", "largest", "largest_variance")
    logged = ("true", "largest", "theory")
    legend = "level"
    compared = (Compared("true", "theory", "sem", "theory_sem"),)
    needs_latents = True
    needs_messages = True

    def __init__(self, against: Against = "time") -> None:
        super().__init__(choose_axis(against))

    def lines(self) -> list[Line]:
        """List levels of upward messages, of downward ones, of marginals; each leaves first."""
        source_indices = range(len(self.sources))
        levels = range(num_levels(self.sources[0]))
        pairs = [(message, k) for message in MESSAGES for k in levels]
        return [
            Line(f"{message} {k}", {"message": message, "level": k}, number, k, source_indices)
            for number, (message, k) in enumerate(pairs)
        ]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compute means and variances over the nodes of each level: (4, T, 3 levels, B)."""
        tree_start = latents_of(record).tree_start
        curves = []
        for tree in messages_of(record):
            for beliefs, true in zip(tree, tree_start, strict=True):
                moments = []
                for values in (belief_in_truth(beliefs, true), beliefs.amax(-1)):
                    variance, mean = torch.var_mean(values.double(), dim=-1, correction=0)
                    moments += [mean, variance]
                curves.append(torch.stack(moments))
        return torch.stack(curves, dim=2)

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages with errors, deviations over nodes and data, and theory."""
        prediction, message = self.prediction(line), str(line.columns["message"])
        true, true_variance, largest, largest_variance = samples
        in_truth, in_largest = (
            average(x, source_indices, self.is_random) for x in (true, largest)
        )
        return {
            "true": in_truth.mean,
            "true_std": np.sqrt(true.var(-1) + true_variance.mean(-1)),
            "largest": in_largest.mean,
            "largest_std": np.sqrt(largest.var(-1) + largest_variance.mean(-1)),
            "count": len(source_indices),
            "theory": getattr(prediction, message)[:, line.level],
            "grammars": len(np.unique(source_indices)),
            "grammar_std": in_truth.grammar_std,
            "sem": in_truth.sem,
            "sem_within": in_truth.sem_within,
            "largest_sem": in_largest.sem,
            "largest_sem_within": in_largest.sem_within,
            "theory_sem": getattr(prediction, f"{message}_error")[:, line.level],
        }

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw one figure per message: all levels, then each with its standard deviation."""
        columns = ("largest", "largest_std", "true", "theory")
        return {
            f"{self.name}_{message}": level_figure(
                results.x,
                results.xlabel,
                f"{message} belief",
                {column: self._levels(results, message, column) for column in columns},
                self.prediction(results.lines[0]).name,
            )
            for message in MESSAGES
        }

    def charts(self, results: Results) -> dict[str, Curves]:
        """Log one chart per message and column."""
        return {
            f"{self.name}/{message}/{column}": self._levels(results, message, column)
            for message in MESSAGES
            for column in self.logged
        }

    def _levels(self, results: Results, message: str, column: str) -> Curves:
        """Return the curves of one message by level."""
        curves = results.curves(column)
        return {
            f"level {line.columns['level']}": curves[line.name]
            for line in results.lines
            if line.columns["message"] == message
        }
