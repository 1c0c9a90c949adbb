"""Where, and how sharply, the class is lost."""

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from callbacks.beliefs import belief_in_truth
from callbacks.curves import CurveAnalysis, Floats, Line, Results, Row
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.inference import mean_field
from lit_hier.metrics import standard_error, std_between, transition
from lit_hier.modules import ForwardBackwardModule
from lit_hier.plots import Panel, curve_figure, phase_figure


class Transition(CurveAnalysis):
    """The root's probability for grammars of several m or L: phase diagram, finite-size widths.

    Where the ensemble has several numbers of synonyms, the probability of the true class is drawn
    over (epsilon, s f) with the predicted line (Figs. 6 and 10, right); where it has several
    depths, its curves sharpen with L.

    Writes, besides what `CurveAnalysis` lists: `transition.csv` with columns process, time, m, L,
    s_f (s f, with Eq. 29's f), marginal, unchanged, sem (of `marginal`, over data), count, theory,
    grammars, grammar_std; `transition_points.csv` with a row per (m, L): m, L, s_f, place (where
    `marginal` is half way from 1 to chance), width (from three quarters to one quarter of the
    way), place_std (between grammars), theory_place and theory_width (the same of the theory at
    this depth), critical (where the theory puts the transition as L grows), exponent (nu);
    `transition.npz` with the arrays `marginal` and `unchanged` (time, curve, index), `time`,
    `curve`, `index`, `source`; with several m, `phase_diagram.png`. Logs to TensorBoard the curves
    `transition/marginal`, `transition/unchanged` and `transition/theory`.
    """

    name = "transition"
    quantities = ("marginal", "unchanged")
    logged = ("marginal", "unchanged", "theory")
    legend = "grammars"
    compared = ("marginal", "theory")

    def __init__(self) -> None:
        super().__init__()

    def lines(self) -> list[Line]:
        """One per (m, L)."""
        kinds = [(numbers, *self.numbers(numbers[0])) for numbers in self.kinds()]
        several_m, several_L = (len({kind[k] for kind in kinds}) > 1 for k in (2, 4))
        lines = []
        for numbers, v, m, s, L in kinds:
            s_f = float(s * mean_field.rule_density(v, m, s))
            names = [f"m = {m}"] * several_m + [f"L = {L}"] * (several_L or not several_m)
            lines.append(Line(", ".join(names), {"m": m, "L": L, "s_f": s_f}, 0, numbers))
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
        if record.tree_start is None or record.tree_reversed is None or record.marginals is None:
            raise InputError(
                f"model: Transition needs trees, which {type(pl_module).__name__} does not give;"
                " use it with a BPDenoiser"
            )
        self.numbers(record.source)
        true = record.tree_start[-1]
        marginal = belief_in_truth(record.marginals[-1], true)
        unchanged = (record.tree_reversed[-1] == true).to(marginal)
        return torch.stack((marginal, unchanged)).transpose(-1, -2)

    def theory(self, line: Line, name: str) -> Floats:
        """The mean-field belief at the root, the last level."""
        return super().theory(Line(line.name, line.columns, -1, line.sources), name)

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Means over data with their standard errors, the theory, the spread of the grammars."""
        marginal, unchanged = samples.astype("float64")
        return {
            "marginal": float(marginal.mean()),
            "unchanged": float(unchanged.mean()),
            "sem": standard_error(marginal),
            "count": len(marginal),
            "theory": float(self.theory(line, "marginal")[time]),
            "grammars": len(np.unique(sources)),
            "grammar_std": std_between(marginal, sources),
        }

    def tables(self, results: Results) -> dict[str, list[Row]]:
        """Places and widths of the transitions, measured and predicted."""
        rows: list[Row] = []
        for line in results.lines:
            given = self.sources[line.sources[0]].parameters
            v, m, s, _ = self.numbers(line.sources[0])
            chance = 1 / given["n"]
            curves = [results.curves[name][line.name] for name in ("marginal", "theory")]
            (place, width), theory = (transition(results.x, y, chance) for y in curves)
            of_grammars = [
                transition(results.x, results.values[0, :, 0, results.source == k].mean(0), chance)
                for k in line.sources
            ]
            rows.append(
                {
                    **line.columns,
                    "place": place,
                    "width": width,
                    "place_std": float(np.std([x for x, _ in of_grammars], ddof=1))
                    if len(of_grammars) > 1
                    else 0.0,
                    "theory_place": theory[0],
                    "theory_width": theory[1],
                    "critical": self.critical_time(line),
                    "exponent": float(mean_field.critical_exponent(v, m, s)),
                }
            )
        return {**super().tables(results), f"{self.name}_points": rows}

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
            Panel("unchanged classes", curves["unchanged"]),
        ]
        criticals = {self.critical_time(line) for line in results.lines}
        critical = criticals.pop() if len(criticals) == 1 else np.nan
        figure = curve_figure(results.x, results.xlabel, panels, self.legend, critical)
        figures = {self.name: figure}
        densities = [float(line.columns["s_f"]) for line in results.lines]
        if len(set(densities)) == len(densities) > 1:
            v, _, s, _ = self.numbers(results.lines[0].sources[0])
            # The theory knows no integers: a smooth line.
            m = np.linspace(1, v ** (s - 1), 400)
            places, theory = (
                [transition(results.x, y, 1 / v)[0] for y in curves[name].values()]
                for name in ("marginal", "theory")
            )
            figures["phase_diagram"] = phase_figure(
                results.x,
                densities,
                np.stack(list(curves["marginal"].values())),
                places,
                theory,
                (mean_field.critical_epsilon(v, m, s), s * mean_field.rule_density(v, m, s)),
                labels=(results.xlabel, "s f", "probability of the true class"),
            )
        return figures
