"""What belief propagation sends up and down the tree, level by level."""

from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.curves import CurveAnalysis, Curves, Floats, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.figures.plots import level_figure
from lit_hier.metrics import std_between
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm import Tree

MESSAGES: Final = ("upward", "downward", "marginal")


def beliefs_of(record: ForwardBackward) -> tuple[Tree, Tree, Tree]:
    """Give a record's upward messages, downward messages and marginals."""
    assert record.upward is not None
    assert record.downward is not None
    assert record.marginals is not None
    return record.upward, record.downward, record.marginals


def belief_in_truth(beliefs: Tensor, true: Tensor) -> Tensor:
    """Give the beliefs (T, B, nodes, symbols) in the true symbols (B, nodes): (T, B, nodes)."""
    chosen = true.expand(len(beliefs), -1, -1)[..., None]
    return beliefs.gather(-1, chosen).squeeze(-1)


class Beliefs(CurveAnalysis):
    """Averages of upward, downward and marginal beliefs per level (Figs. 12, 13, 14).

    Each message is a distribution over symbols; `largest` is its largest probability, which the
    paper shows, and `true` the probability of the true symbol, which the theory predicts. They
    agree where inference succeeds. Averages and standard deviations are over all nodes of a level
    and all data of all grammars.

    Writes, besides what `CurveAnalysis` lists: `beliefs.csv` with columns process, time, message
    (upward, downward or marginal), level, true, true_std, largest, largest_std, count (of data),
    theory, grammars, grammar_std (of `true`); `beliefs.npz` with the arrays `true`,
    `true_variance`, `largest` and `largest_variance` (time, curve, index), means and variances
    over the nodes of each datum, and `time`, `curve`, `index`, `source`; instead of `beliefs.png`
    one picture per message: `beliefs_upward.png`, `beliefs_downward.png`, `beliefs_marginal.png`.
    Logs to TensorBoard the curves `beliefs/MESSAGE/true`, `beliefs/MESSAGE/largest` and
    `beliefs/MESSAGE/theory`.

    The sampler must give messages: `messages: true`.

    Args:
        against: See `CurveAnalysis`.
    """

    name = "beliefs"
    quantities = ("true", "true_variance", "largest", "largest_variance")
    logged = ("true", "largest", "theory")
    legend = "level"
    compared = ("true", "theory")
    needs_messages = True

    def lines(self) -> list[Line]:
        """Levels of upward messages, of downward ones, of marginals; each leaves first."""
        sources = range(len(self.sources))
        pairs = [(message, k) for message in MESSAGES for k in range(self.sources[0].num_levels)]
        return [
            Line(f"{message} {k}", {"message": message, "level": k}, number, k, sources)
            for number, (message, k) in enumerate(pairs)
        ]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Take means and variances over the nodes of each level: shape (4, T, 3 levels, B)."""
        given = beliefs_of(record)
        assert record.tree_start is not None
        curves = []
        for tree in given:
            for beliefs, true in zip(tree, record.tree_start, strict=True):
                moments = []
                for values in (belief_in_truth(beliefs, true), beliefs.amax(-1)):
                    variance, mean = torch.var_mean(values.double(), dim=-1, correction=0)
                    moments += [mean, variance]
                curves.append(torch.stack(moments))
        return torch.stack(curves, dim=2)

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Means and standard deviations over nodes and data, the theory, the grammars' spread."""
        true, true_variance, largest, largest_variance = samples.astype("float64")
        return {
            "true": float(true.mean()),
            "true_std": float(np.sqrt(true.var() + true_variance.mean())),
            "largest": float(largest.mean()),
            "largest_std": float(np.sqrt(largest.var() + largest_variance.mean())),
            "count": len(true),
            "theory": float(self.theory(line, str(line.columns["message"]))[time]),
            "grammars": len(np.unique(sources)),
            "grammar_std": std_between(true, sources),
        }

    def figures(self, results: Results) -> dict[str, Figure]:
        """One picture per message: all levels, then each with its standard deviation."""
        return {
            f"{self.name}_{message}": level_figure(
                results.x, results.xlabel, f"{message} belief", self._levels(results, message)
            )
            for message in MESSAGES
        }

    def charts(self, results: Results) -> dict[str, Curves]:
        """One chart per message."""
        return {
            f"{self.name}/{message}/{column}": self._levels(results, message)[column]
            for message in MESSAGES
            for column in self.logged
        }

    def _levels(self, results: Results, message: str) -> dict[str, Curves]:
        """Give one message's columns by level."""
        lines = [line for line in results.lines if line.columns["message"] == message]
        return {
            column: {f"level {line.columns['level']}": by_name[line.name] for line in lines}
            for column, by_name in results.curves.items()
        }
