"""What a level makes of the level below: the map whose fixed points decide the transition."""

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from callbacks.beliefs import belief_in_truth, beliefs_of
from callbacks.curves import CurveAnalysis, Floats, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.inference import mean_field
from lit_hier.metrics import standard_error, std_between
from lit_hier.modules import ForwardBackwardModule
from lit_hier.plots import MapCurve, map_figure


class IterationMap(CurveAnalysis):
    """Upward belief of a level against that of the level below, and Eq. 38 (Fig. 10, left).

    The points of all times and levels fall onto one curve as far as the mean-field theory holds.
    An ensemble may have several numbers of synonyms; each has its curve.

    Writes, besides what `CurveAnalysis` lists: `iteration_map.csv` with columns process, time, m,
    s_f (s f, with Eq. 29's f), level, belief (mean upward belief in the true symbol), sem (over
    data), count, theory, grammars, grammar_std; `iteration_map.npz` with the arrays `belief`
    (time, curve, index), `time`, `curve`, `index`, `source`; the picture is of the map. Logs to
    TensorBoard the curves `iteration_map/belief` and `iteration_map/theory`.

    The sampler must give messages: `messages: true`.
    """

    name = "iteration_map"
    quantities = ("belief",)
    logged = ("belief", "theory")
    legend = "level"
    compared = ("belief", "theory")

    def __init__(self) -> None:
        super().__init__()

    def lines(self) -> list[Line]:
        """Levels, leaves first, for each number of synonyms."""
        lines = []
        for numbers in self.kinds():
            v, m, s, _ = self.numbers(numbers[0])
            s_f = float(s * mean_field.rule_density(v, m, s))
            lines += [
                Line(f"m = {m}, level {k}", {"m": m, "s_f": s_f, "level": k}, k, numbers)
                for k in range(self.num_levels)
            ]
        return lines

    def curve_names(self) -> list[str]:
        """Levels: the number of synonyms is the source's."""
        return [f"level {k}" for k in range(self.num_levels)]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Average over the nodes of each level: shape (1, T, levels, B).

        Raises:
            InputError: The grammars differ in depth, or the sampler gives no messages.
        """
        if len({source.parameters.get("L") for source in self.sources}) > 1:
            raise InputError("data.rhm: IterationMap needs grammars of one num_layers")
        upward = beliefs_of(record, type(self).__name__)[0]
        assert record.tree_start is not None
        self.num_levels = len(record.tree_start)
        pairs = zip(upward, record.tree_start, strict=True)
        means = [belief_in_truth(beliefs, true).double().mean(-1) for beliefs, true in pairs]
        return torch.stack(means, dim=1)[None]

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """The mean over data with its standard error, the theory, the grammars' spread."""
        belief = samples[0].astype("float64")
        return {
            "belief": float(belief.mean()),
            "sem": standard_error(belief),
            "count": len(belief),
            "theory": float(self.theory(line, "upward")[time]),
            "grammars": len(np.unique(sources)),
            "grammar_std": std_between(belief, sources),
        }

    def figures(self, results: Results) -> dict[str, Figure]:
        """Draw the map, its fixed points, and each level against the next."""
        belief = results.curves["belief"]
        curves = []
        for numbers in self.kinds():
            v, m, s, _ = self.numbers(numbers[0])
            levels = np.stack([belief[f"m = {m}, level {k}"] for k in range(self.num_levels)])
            p = np.linspace(1 / v, 1, 400)
            points = mean_field.fixed_points(v, m, s)
            curves.append(
                MapCurve(
                    f"s f = {s * float(mean_field.rule_density(v, m, s)):.2f} (m = {m})",
                    (p, mean_field.upward(p, v, m, s)),
                    (levels[:-1].ravel(), levels[1:].ravel()),
                    points.belief,
                    points.stable,
                )
            )
        axes = "belief p at a level", "belief F(p) at the level above"
        return {self.name: map_figure(curves, *axes)}
