"""Where, and how sharply, the class is lost."""

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.beliefs import belief_in_truth
from lit_hier.callbacks.curves import CurveAnalysis, Floats, Line, Results, Row
from lit_hier.callbacks.reconstruction import summarise_truth, trees_of
from lit_hier.diffusion import ForwardBackward
from lit_hier.figures.plots import Panel, curve_figure, phase_figure
from lit_hier.inference import mean_field
from lit_hier.metrics import std_between, transition
from lit_hier.modules import ForwardBackwardModule


class Transition(CurveAnalysis):
    """The root's probability for grammars of several m or L: phase diagram, finite-size widths.

    Where the ensemble has several numbers of synonyms, the probability of the true class is drawn
    over (epsilon, s f) with the predicted line (Figs. 6 and 10, right); where it has several
    depths, its curves sharpen with L.

    Writes, besides what `CurveAnalysis` lists: `transition.csv` with columns process, time, m, L,
    s_f (s f, with Eq. 29's f), marginal, unchanged, sem (of `marginal`, over data), count, theory,
    unchanged_sem, grammars, grammar_std; `transition_points.csv` with a row per (m, L): m, L,
    s_f, place (where `marginal` is half way from 1 to chance), width (from three quarters to one
    quarter of the way), place_std (between grammars), theory_place and theory_width (the same of
    the theory at this depth), critical (where the theory puts the transition as L grows), exponent
    (nu); `transition.npz` with the arrays `marginal` and `unchanged` (time, curve, index), `time`,
    `curve`, `index`, `source`; with several m, `phase_diagram.png`. Logs to TensorBoard the curves
    `transition/marginal`, `transition/unchanged` and `transition/theory`.
    """

    name = "transition"
    quantities = ("marginal", "unchanged")
    logged = ("marginal", "unchanged", "theory")
    legend = "grammars"
    compared = ("marginal", "theory")
    varied = frozenset("mL")

    def __init__(self) -> None:
        super().__init__()

    def lines(self) -> list[Line]:
        """One per (m, L), ascending."""
        kinds = [(sources, *self.numbers(sources[0])) for sources in self.kinds()]
        several_m, several_L = (len({kind[k] for kind in kinds}) > 1 for k in (2, 4))
        lines = []
        for sources, v, m, s, L in kinds:
            s_f = float(s * mean_field.rule_density(v, m, s))
            names = [f"m = {m}"] * several_m + [f"L = {L}"] * (several_L or not several_m)
            lines.append(Line(", ".join(names), {"m": m, "L": L, "s_f": s_f}, 0, L, sources))
        return lines

    def curve_names(self) -> list[str]:
        """The root alone is measured."""
        return ["root"]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Look at the root: shape (2, T, 1, B).

        Raises:
            InputError: The record has no trees, or none of a grammar.
        """
        tree_start, tree_reversed, marginals = trees_of(record, self, pl_module)
        self.numbers(record.source)
        marginal = belief_in_truth(marginals[-1], tree_start[-1])
        unchanged = (tree_reversed[-1] == tree_start[-1]).to(marginal)
        return torch.stack((marginal, unchanged)).transpose(-1, -2)

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Means over data with their standard errors, the theory, the spread of the grammars."""
        return summarise_truth(samples, sources, self.theory(line, "marginal")[time])

    def tables(self, results: Results) -> dict[str, list[Row]]:
        """Places and widths of the transitions, measured and predicted."""
        return {**super().tables(results), f"{self.name}_points": self._points(results)}

    def _points(self, results: Results) -> list[Row]:
        rows: list[Row] = []
        for line in results.lines:
            v, m, s, _ = self.numbers(line.sources[0])
            chance = 1 / self.sources[line.sources[0]].parameters["n"]
            measured, theory = (
                transition(results.x, results.curves[name][line.name], chance)
                for name in ("marginal", "theory")
            )
            of_grammars = [
                transition(results.x, results.values[0, :, 0, results.source == k].mean(0), chance)
                for k in np.intersect1d(line.sources, results.source)
            ]
            places = np.array([place for place, _ in of_grammars])
            critical = self.critical_time(line)
            exponent = float(mean_field.critical_exponent(v, m, s))
            rows.append(
                {
                    **line.columns,
                    "place": measured[0],
                    "width": measured[1],
                    "place_std": std_between(places, np.arange(len(places))),
                    "theory_place": theory[0],
                    "theory_width": theory[1],
                    "critical": critical,
                    "exponent": exponent if np.isfinite(critical) else np.nan,
                }
            )
        return rows

    def figures(self, results: Results) -> dict[str, Figure]:
        """The curves and, with several m, the phase diagram."""
        curves = results.curves
        panels = [
            Panel(
                "probability of the true class",
                curves["marginal"],
                bands=curves["grammar_std"],
                theory=curves["theory"],
            ),
            Panel("unchanged classes", curves["unchanged"], bands=curves["unchanged_sem"]),
        ]
        criticals = {self.critical_time(line) for line in results.lines}
        critical = criticals.pop() if len(criticals) == 1 else np.nan
        figure = curve_figure(results.x, results.xlabel, panels, self.legend, critical)
        figures = {self.name: figure}
        points = self._points(results)
        densities = [row["s_f"] for row in points]
        if len(set(densities)) == len(densities) > 1:
            v, _, s, _ = self.numbers(results.lines[0].sources[0])
            # The theory knows no integers: a smooth line, where there is a theory.
            applies = np.isfinite(list(curves["theory"].values())).all()
            m = np.linspace(1, v ** (s - 1), 400 if applies else 0)
            figures["phase_diagram"] = phase_figure(
                results.x,
                densities,
                np.stack(list(curves["marginal"].values())),
                [row["place"] for row in points],
                [row["theory_place"] for row in points],
                (mean_field.critical_epsilon(v, m, s), s * mean_field.rule_density(v, m, s)),
                labels=(results.xlabel, "s f", "probability of the true class"),
            )
        return figures
