"""The map from a level's belief to the next one's, whose fixed points set the transition."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Floats, InversionTimes
from lit_hier.callbacks.beliefs import belief_in_truth, latents_of, messages_of
from lit_hier.callbacks.curves import Columns, Compared, CurveAnalysis, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.figures import MapCurve, map_figure
from lit_hier.inference import theory
from lit_hier.metrics import average
from lit_hier.modules import ForwardBackwardModule


class IterationMap(CurveAnalysis):
    """Upward belief of a level against that of the level below, and Eq. 38 (Fig. 10, left).

    The points of all times and levels fall onto one curve where mean-field theory holds. An
    ensemble may have several numbers of synonyms, each with its own curve.

    Writes, besides what `CurveAnalysis` lists:

    - `iteration_map.csv` with columns process, time, m, s_f (s f, with Eq. 29's f), level, belief
      (mean upward belief in the true symbol), above (that of the level above), sem (standard
      error of `above`), count, theory (F of `belief`; NaN where Eq. 38 does not apply), grammars,
      grammar_std (of `above`; NaN for one grammar), sem_within (of `above`), belief_sem,
      belief_sem_within: see `lit_hier.metrics.average`.
    - `iteration_map.npz` with the arrays `belief` and `above` (time, curve, index), `time`,
      `curve`, `index`, `source`.

    The figure shows the map; bars are one standard error. Logs to TensorBoard the curves
    `iteration_map/above` and `iteration_map/theory`.

    The sampler must return messages: `messages: true`.
    """

    name = "iteration_map"
    quantities = ("belief", "above")
    logged = ("above", "theory")
    legend = "level"
    compared = (Compared("above", "theory", "sem"),)
    needs_latents = True
    needs_messages = True
    varied = frozenset("m")

    def __init__(self) -> None:
        super().__init__(InversionTimes())

    def lines(self) -> list[Line]:
        """List all levels but the root, leaves first, for each number of synonyms."""
        lines = []
        for grammar, source_indices in self.source_indices_by_grammar().items():
            m, s_f = grammar.m, theory.scaled_density(grammar)
            for k in range(grammar.L):
                columns = {"m": m, "s_f": s_f, "level": k}
                lines.append(Line(f"m = {m}, level {k}", columns, k, k + 1, source_indices))
        return lines

    def curve_names(self) -> list[str]:
        """Name the levels; a sample's number of synonyms follows from its source."""
        return [f"level {k}" for k in range(self.grammar(0).L)]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Average over the nodes of each level: shape (2, T, levels, B)."""
        upward, _, _ = messages_of(record)
        pairs = zip(upward, latents_of(record).tree_start, strict=True)
        means = [belief_in_truth(beliefs, true).double().mean(-1) for beliefs, true in pairs]
        levels = torch.stack(means, dim=1)
        return torch.stack((levels[:, :-1], levels[:, 1:]))

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages with errors, and the map of the lower level's."""
        belief, above = (average(x, source_indices) for x in samples)
        grammar = self.grammar(line.source_indices[0])
        return {
            "belief": belief.mean,
            "above": above.mean,
            "sem": above.sem,
            "count": len(source_indices),
            "theory": theory.parent_belief(
                grammar, self.noise_process, belief.mean, top=line.level == grammar.L
            ),
            "grammars": len(np.unique(source_indices)),
            "grammar_std": above.grammar_std,
            "sem_within": above.sem_within,
            "belief_sem": belief.sem,
            "belief_sem_within": belief.sem_within,
        }

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw the map, its fixed points, and each level against the next."""

        def joined(column: str, names: Sequence[str]) -> Floats:
            curves = results.curves(column)
            return np.concatenate([np.asarray(curves[name]) for name in names])

        maps = []
        for grammar, source_indices in self.source_indices_by_grammar().items():
            names = [line.name for line in results.lines if line.source_indices == source_indices]
            if not names:
                continue
            p = np.linspace(1 / grammar.v, 1, 400)
            predicted = theory.parent_belief(grammar, self.noise_process, p)
            known = np.isfinite(predicted)
            points = theory.fixed_points(grammar, self.noise_process)
            maps.append(
                MapCurve(
                    f"s f = {theory.scaled_density(grammar):.2f} (m = {grammar.m})",
                    (p[known], predicted[known]),
                    (joined("belief", names), joined("above", names)),
                    (joined("belief_sem", names), joined("sem", names)),
                    points.belief,
                    points.stable,
                )
            )
        axes = "belief p at a level", "belief F(p) at the level above"
        return {self.name: map_figure(maps, *axes)}
