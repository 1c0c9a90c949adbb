"""Figures of the curves in tables of finished runs."""

from typing import Final

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure
from pandas import DataFrame

from lit_hier.errors import InputError
from lit_hier.figures import Panel, curve_figure
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise

Curves = dict[str, Float64[np.ndarray, " T"]]

QUANTITIES: Final = {
    "mean": "cosine similarity, mean over data",
    "mode": "cosine similarity, mode over data",
    "marginal": "probability of the true symbol",
    "largest": "largest probability",
    "unchanged": "share unchanged",
}
"""Labels of the columns that are drawn, in this order."""
X_AXES: Final = {
    "effective_noise": "effective noise ε(t)",
    "leaf_information": "information of a leaf I(x₀; x_t) / ln v",
}
"""Labels of the columns that are an x axis, where a table has one; else it is the time."""

_TIMES: Final = {
    axis.process: axis.label
    for axis in (
        EpsilonNoise.axis,
        EpsilonNoise(strings=True).axis,
        GaussianNoise.axis,
        MaskingNoise.axis,
    )
}
_CURVES: Final = ("layer", "level")  # columns that name a curve
_OWN_ERRORS: Final = {"mean": "sem", "marginal": "sem"}  # of a run's table
_THEORIES: Final = {"marginal": "theory", "largest": "largest_theory"}


def x_axis(table: DataFrame) -> tuple[str, str]:
    """Return the column of a table's x axis, and its label."""
    for column, label in X_AXES.items():
        if column in table:
            return column, label
    process = str(table["process"].iloc[0]) if "process" in table else ""
    return "time", _TIMES.get(process, "inversion time")


def curves_of(table: DataFrame, column: str) -> Curves:
    """Return the curves of a column over the x axis, shallow to deep, by their names.

    Raises:
        InputError: The table has no curves over times.
    """
    key = next((name for name in _CURVES if name in table), None)
    if key is None or "time" not in table:
        raise InputError(
            f"table: it has no curves, only the columns {', '.join(map(str, table.columns))}; give"
            " one with a time and a layer or a level"
        )
    return {
        str(name) if key == "layer" else f"{key} {name}": part[column].to_numpy(float)
        for name, part in table.groupby(key, sort=False)
    }


def error_column(table: DataFrame, column: str) -> str:
    """Return the column of a column's standard error; empty if there is none."""
    for name in (f"{column}_sem", _OWN_ERRORS.get(column, "")):
        if name in table:
            return name
    return ""


def table_figure(table: DataFrame) -> Figure:
    """Draw the curves of a table, with bands of one standard error and dashed theory.

    Args:
        table: A run's table, or an average of several, of similarities or of reconstruction.

    Raises:
        InputError: It has no such curves.
    """
    x, label = x_axis(table)
    panels = [_panel(table, column) for column in QUANTITIES if column in table]
    if not panels:
        raise InputError(f"table: it has none of {', '.join(QUANTITIES)} to draw; give another")
    x_values = next(iter(curves_of(table, x).values()))
    return curve_figure(x_values, label, panels, "layer" if "layer" in table else "level")


def _panel(table: DataFrame, column: str) -> Panel:
    error, theory = error_column(table, column), _THEORIES.get(column, "")
    return Panel(
        QUANTITIES[column],
        curves_of(table, column),
        bands=curves_of(table, error) if error else {},
        theory=curves_of(table, theory) if theory in table else {},
        theory_label="theory",
    )
