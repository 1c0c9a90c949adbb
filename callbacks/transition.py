"""The place and the width of the transition at which the class is lost."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Floats, InversionTimes
from lit_hier.callbacks.curves import (
    Columns,
    CurveAnalysis,
    Line,
    Results,
    transpose,
)
from lit_hier.callbacks.reconstruction import (
    COMPARED,
    LOGGED,
    QUANTITIES,
    chance_levels,
    measure_truth,
    summarize_truth,
    transition_numbers,
    truth_panels,
)
from lit_hier.diffusion import ForwardBackward
from lit_hier.figures import Collapse, collapse_figure, curve_figure, phase_figure
from lit_hier.inference import theory
from lit_hier.metrics import (
    TRANSITION_NUMBERS,
    collapse_spread,
    fit_exponent,
    transition,
)
from lit_hier.modules import ForwardBackwardModule
from lit_hier.processes import NoiseProcess


class Transition(CurveAnalysis):
    """The root's probability for grammars of several m or L: phase diagram, finite-size widths.

    For an ensemble of several numbers of synonyms, the probability of the true class is drawn
    over (epsilon, s f) with the predicted line (Figs. 6 and 10, right); for several depths, its
    curves sharpen with L. Places and widths are those of `lit_hier.metrics`, as are the places of
    `TransitionTime`, which compares the estimators of one grammar's transition.

    Writes, besides what `CurveAnalysis` lists:

    - `transition.csv` with columns process, time, for trained denoisers num_train and step, m, L,
      s_f (s f, with Eq. 29's f), marginal, unchanged, sem (standard error of `marginal`), count,
      theory, unchanged_sem, grammars, grammar_std and the further columns of
      `reconstruction.csv`, see `Reconstruction`.
    - `transition_points.csv` with a row per curve, whose columns are the same: m, L, s_f, place
      (where `marginal` is halfway from 1 to chance), width (from three quarters to one quarter of
      the way), place_std (between grammars; NaN for one), theory_place and theory_width (the same
      for the theory at this depth), critical (the predicted transition as L grows), exponent (nu),
      critical_sem (standard error of `critical`; 0 for a closed form), place_sem and width_sem
      (standard errors by the bootstrap over grammars or, with one grammar, over data, see
      `lit_hier.metrics.transition_errors`), kesten_stigum (F'(1/v), by which a level multiplies a
      small amount of information: from 1 on there is no transition, as any information about the
      leaves reaches the root), theory_place_sem and theory_width_sem (standard errors of
      `theory_place` and `theory_width`; 0 for a closed form, see
      `lit_hier.metrics.theory_errors`).
    - `transition.npz` with the arrays `marginal`, `unchanged`, `largest` and `information` (time,
      curve, index), `time`, `curve`, `index`, `source`.
    - `phase_diagram.png`, for one depth and several m.
    - `transition_collapse.csv`, for several depths, with a row per m: process, m, depths (their
      number), exponent (nu, fitted to the widths, see `lit_hier.metrics.fit_exponent`),
      exponent_sem, exponent_theory (nu as predicted), critical (the predicted transition), spread
      (the largest distance of two curves at the same (time - critical) s^(L/nu), on the range that
      all have), spread_theory (that of the theory's curves at these depths), exponent_of_theory
      (the fit to the widths of the theory's curves). nu is the predicted one or, where it is
      unknown, the fitted one.
    - `transition_collapse.png`, likewise: these curves, and the widths with their fit.

    Logs to TensorBoard the curves that `Reconstruction` lists, as `transition/COLUMN`, and the
    figures `phase_diagram` and `transition_collapse`. The run's summary has the places and widths
    of all curves.
    """

    name = "transition"
    suffixes = ("", "_deviation", "_points", "_collapse")
    quantities = QUANTITIES
    logged = LOGGED
    legend = "grammars"
    compared = COMPARED
    needs_latents = True
    varied = frozenset("mL")

    def __init__(self) -> None:
        super().__init__(InversionTimes())

    def lines(self) -> list[Line]:
        """List each (m, L), ascending."""
        groups = self.source_indices_by_grammar()
        several_m = len({grammar.m for grammar in groups}) > 1
        several_L = len({grammar.L for grammar in groups}) > 1
        lines = []
        for grammar, source_indices in groups.items():
            m, L = grammar.m, grammar.L
            names = [f"m = {m}"] * several_m + [f"L = {L}"] * (several_L or not several_m)
            columns = {"m": m, "L": L, "s_f": theory.scaled_density(grammar)}
            lines.append(Line(", ".join(names), columns, 0, L, source_indices))
        return lines

    def curve_names(self) -> list[str]:
        """Name the root, the only node measured."""
        return ["root"]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Measure the root: shape (4, T, 1, B)."""
        return measure_truth(record, -1)[:, :, None]

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages over data and grammars, standard errors and theory."""
        prediction = self.prediction(line)
        return summarize_truth(
            samples, source_indices, prediction, line.level, self.is_random, self.crossed
        )

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Add the places and widths of the transitions, measured and predicted."""
        points = self._points(results)
        self.numbers = {
            name + f" ({line.name})" * (len(results.lines) > 1): (row[name], row[f"{name}_sem"])
            for line, row in zip(results.lines, points, strict=True)
            for name in TRANSITION_NUMBERS
        }
        table = self._table(results, points)
        rows = [
            {
                "process": self.axis.process,
                "m": m,
                "depths": len(found.curves),
                "exponent": found.exponent.value,
                "exponent_sem": found.exponent.sem,
                "exponent_theory": found.exponent_theory,
                "critical": found.critical,
                "spread": collapse_spread(found.scaled, found.curves),
                "spread_theory": collapse_spread(found.scaled, found.theory),
                "exponent_of_theory": found.exponent_of_theory.value,
            }
            for m, found in self._collapses(results, table).items()
        ]
        collapse = {f"{self.name}_collapse": DataFrame(rows)} if rows else {}
        return {**super().tables(results), f"{self.name}_points": table, **collapse}

    def _collapses(self, results: Results, points: DataFrame) -> dict[int, Collapse]:
        """Scale the curves of several depths, by m."""
        curves, bands = results.curves("marginal"), results.curves("sem")
        predicted = results.curves("theory")
        collapses = {}
        for m in points["m"].unique().tolist():
            group = points[points["m"] == m]
            if group["L"].nunique() < 2:
                continue
            lines = [results.lines[k] for k in group.index]
            log_size = group["L"].to_numpy() * math.log(self.grammar(lines[0].source_indices[0]).s)
            exponent = fit_exponent(log_size, *group[["width", "width_sem"]].to_numpy().T)
            width = group["theory_width"].to_numpy()
            nu = group["exponent"].iloc[0]
            stretch = np.exp(log_size / (nu if math.isfinite(nu) else exponent.value))
            names = [line.name for line in lines]
            collapses[m] = Collapse(
                names,
                critical := self.critical_value(lines[0]),
                [(results.x - critical) * factor for factor in stretch],
                [curves[name] for name in names],
                [bands[name] for name in names],
                [predicted[name] for name in names],
                log_size,
                group["width"].to_numpy(),
                group["width_sem"].to_numpy(),
                exponent,
                nu,
                fit_exponent(log_size, width, np.full_like(width, np.nan)),
            )
        return collapses

    @property
    def _theory_process(self) -> NoiseProcess | None:
        """The process, if theory describes the root under this prior."""
        return self.noise_process if self.uniform_prior else None

    def _points(self, results: Results) -> list[dict[str, float]]:
        """Find the place and the width of each curve's transition, measured and predicted."""
        points = []
        for line in results.lines:
            sampled = np.isin(results.source_indices, line.source_indices)
            samples, groups = results.values[0, :, 0, sampled].T, results.source_indices[sampled]
            n = self.grammar(line.source_indices[0]).n
            numbers = transition_numbers(
                results.x, samples, groups, self.prediction(line), n, self.crossed
            )
            means = [samples[:, groups == group].mean(-1) for group in np.unique(groups)]
            places = np.atleast_1d(transition(results.x, np.stack(means), 1 / n)[0])
            point = {name: value for name, (value, _) in numbers.items()}
            point |= {f"{name}_sem": error for name, (_, error) in numbers.items()}
            point["place_std"] = float(np.std(places, ddof=1)) if len(places) > 1 else np.nan
            points.append(point)
        return points

    def _table(self, results: Results, points: list[dict[str, float]]) -> DataFrame:
        """Lay out the places and the widths, one row per curve."""
        lines = results.lines
        grammars = [self.grammar(line.source_indices[0]) for line in lines]
        found = transpose(points)
        columns = transpose([line.columns for line in lines]) | {
            "place": found["place"],
            "width": found["width"],
            "place_std": found["place_std"],
            "theory_place": found["theory_place"],
            "theory_width": found["theory_width"],
            "critical": [self.critical_value(line) for line in lines],
            "exponent": [
                theory.critical_exponent(grammar, self._theory_process) for grammar in grammars
            ],
            "critical_sem": [self.prediction(line).critical_error for line in lines],
            "place_sem": found["place_sem"],
            "width_sem": found["width_sem"],
            "kesten_stigum": [theory.kesten_stigum(grammar) for grammar in grammars],
            "theory_place_sem": found["theory_place_sem"],
            "theory_width_sem": found["theory_width_sem"],
        }
        return DataFrame(columns)

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw the curves and, for several m, the phase diagram."""
        theory_label = self.prediction(results.lines[0]).name
        chance = chance_levels(self.sources[0], has_symbols=False)
        panels = truth_panels(results, "class", theory_label, chance)
        criticals = {self.critical_value(line) for line in results.lines}
        critical = criticals.pop() if len(criticals) == 1 else np.nan
        figure = curve_figure(results.x, results.xlabel, panels, self.legend, critical)
        figures = {self.name: figure}
        points = tables[f"{self.name}_points"]
        if len(points) > 1 and points["s_f"].is_unique:
            grammar = self.grammar(results.lines[0].source_indices[0])
            figures["phase_diagram"] = phase_figure(
                results.x,
                points["s_f"].to_numpy(),
                np.stack(list(results.curves("marginal").values())),
                points["place"].to_numpy(),
                points["theory_place"].to_numpy(),
                theory.critical_line(grammar, self._theory_process),
                labels=(results.xlabel, "s f", "probability of the true class"),
            )
        collapses = self._collapses(results, points)
        drawn = {m: found for m, found in collapses.items() if np.isfinite(found.scaled).all()}
        if drawn:
            ylabel = "probability of the true class"
            figures[f"{self.name}_collapse"] = collapse_figure(drawn, self.axis.symbol, ylabel)
        return figures
