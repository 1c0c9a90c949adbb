"""What a level makes of the level below: the map whose fixed points decide the transition."""

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.beliefs import belief_in_truth, beliefs_of
from lit_hier.callbacks.curves import CurveAnalysis, Floats, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.figures.plots import MapCurve, map_figure
from lit_hier.inference import mean_field
from lit_hier.metrics import standard_error, std_between
from lit_hier.modules import ForwardBackwardModule


class IterationMap(CurveAnalysis):
    """Upward belief of a level against that of the level below, and Eq. 38 (Fig. 10, left).

    The points of all times and levels fall onto one curve as far as the mean-field theory holds.
    An ensemble may have several numbers of synonyms; each has its curve.

    Writes, besides what `CurveAnalysis` lists: `iteration_map.csv` with columns process, time, m,
    s_f (s f, with Eq. 29's f), level, belief (mean upward belief in the true symbol), above (that
    of the level above), sem (of `above`, over data), count, theory (F of `belief`), grammars,
    grammar_std (of `above`); `iteration_map.npz` with the arrays `belief` and `above` (time,
    curve, index), `time`, `curve`, `index`, `source`; the picture is of the map. Logs to
    TensorBoard the curves `iteration_map/above` and `iteration_map/theory`.

    The sampler must give messages: `messages: true`.
    """

    name = "iteration_map"
    quantities = ("belief", "above")
    logged = ("above", "theory")
    legend = "level"
    compared = ("above", "theory")
    needs_messages = True
    varied = frozenset("m")

    def __init__(self) -> None:
        super().__init__()

    def lines(self) -> list[Line]:
        """Levels but the root, leaves first, for each number of synonyms."""
        lines = []
        for sources in self.kinds():
            v, m, s, L = self.numbers(sources[0])
            s_f = float(s * mean_field.rule_density(v, m, s))
            lines += [
                Line(f"m = {m}, level {k}", {"m": m, "s_f": s_f, "level": k}, k, k + 1, sources)
                for k in range(L)
            ]
        return lines

    def curve_names(self) -> list[str]:
        """Levels: the number of synonyms is the source's."""
        return [f"level {k}" for k in range(self.numbers(0)[3])]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Average over the nodes of each level: shape (2, T, levels, B)."""
        assert record.tree_start is not None
        pairs = zip(beliefs_of(record)[0], record.tree_start, strict=True)
        means = [belief_in_truth(beliefs, true).double().mean(-1) for beliefs, true in pairs]
        levels = torch.stack(means, dim=1)
        return torch.stack((levels[:, :-1], levels[:, 1:]))

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Means over data, the map of the lower one, the grammars' spread."""
        belief, above = samples.astype("float64")
        v, m, s, _ = self.numbers(line.sources[0])
        theory = mean_field.upward(belief.mean(), v, m, s)
        applies = np.isfinite(self.theory(line, "upward")[time])
        return {
            "belief": float(belief.mean()),
            "above": float(above.mean()),
            "sem": standard_error(above),
            "count": len(above),
            "theory": float(theory) if applies else np.nan,
            "grammars": len(np.unique(sources)),
            "grammar_std": std_between(above, sources),
        }

    def figures(self, results: Results) -> dict[str, Figure]:
        """Draw the map, its fixed points, and each level against the next."""
        belief, above = (results.curves[name] for name in ("belief", "above"))
        curves = []
        for sources in self.kinds():
            lines = [line for line in results.lines if line.sources == sources]
            if not lines:
                continue
            v, m, s, _ = self.numbers(sources[0])
            applies = np.isfinite(results.curves["theory"][lines[0].name]).all()
            p = np.linspace(1 / v, 1, 400) if applies else np.zeros(0)
            points = mean_field.fixed_points(v, m, s)
            curves.append(
                MapCurve(
                    f"s f = {lines[0].columns['s_f']:.2f} (m = {m})",
                    (p, mean_field.upward(p, v, m, s)),
                    (
                        np.concatenate([belief[line.name] for line in lines]),
                        np.concatenate([above[line.name] for line in lines]),
                    ),
                    points.belief if applies else np.zeros(0),
                    points.stable if applies else np.zeros(0, dtype=np.bool_),
                )
            )
        axes = "belief p at a level", "belief F(p) at the level above"
        return {self.name: map_figure(curves, *axes)}
