"""Figures of the curves in tables of finished runs."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure
from pandas import DataFrame
from pandas.api.types import is_numeric_dtype

from lit_hier.errors import InputError
from lit_hier.figures import Panel, compare_panels, curve_figure
from lit_hier.figures.learning import NUM_TRAIN, STEP
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise

Curves = dict[str, Float64[np.ndarray, " T"]]


class Quantity(NamedTuple):
    """A column that is drawn.

    Attributes:
        label: The label of its axis.
        error: The column of its standard error in a run's own table.
        theory: The column of its prediction.
        unit: Its unit; quantities of one unit share an axis.
        log: Whether its axis is logarithmic.
    """

    label: str
    error: str = ""
    theory: str = ""
    unit: str = ""
    log: bool = False


QUANTITIES: Final = {
    "mean": Quantity("cosine similarity, mean over data", "sem"),
    "mode": Quantity("cosine similarity, mode over data"),
    "marginal": Quantity("probability of the true symbol", "sem", "theory"),
    "true": Quantity("belief in the true symbol", "sem", "theory"),
    "largest": Quantity("largest probability", theory="largest_theory"),
    "unchanged": Quantity("share unchanged"),
    "information": Quantity("information (nats)", theory="information_theory", unit="nats"),
    "kept": Quantity("predicted class kept", "sem"),
    "strings": Quantity("share of strings valid up to a level", "sem"),
    "nodes": Quantity("share of nodes valid"),
    "kl": Quantity("KL from exact inference (nats per leaf)", "sem", unit="KL", log=True),
    "excess_cross_entropy": Quantity("excess cross-entropy (nats per leaf)", unit="nats per leaf"),
    "agreement": Quantity("most likely symbol agrees"),
    "chi": Quantity("susceptibility χ", "sem", "theory", "sites"),
    "noise": Quantity("effective noise ε", "sem", "quadrature"),
}
"""The columns that are drawn, in this order."""
X_AXES: Final = {
    "effective_noise": "effective noise ε(t)",
    "leaf_information": "information of a leaf I(x₀; x_t) / ln v",
}
"""Labels of the columns that are an x axis, where a table has one; else it is the time."""
KEYS: Final = (NUM_TRAIN, STEP, "message", "m", "L", "layer", "level")
"""Columns that identify a curve."""

_TIMES: Final = {
    axis.process: axis.label
    for axis in (
        EpsilonNoise.axis,
        EpsilonNoise(strings=True).axis,
        GaussianNoise.axis,
        MaskingNoise.axis,
    )
}


def x_axis(table: DataFrame) -> tuple[str, str]:
    """Return the column of a table's x axis, and its label."""
    for column, label in X_AXES.items():
        if column in table and "noise" not in table:
            return column, label
    process = str(table["process"].iloc[0]) if "process" in table and len(table) else ""
    return "time", _TIMES.get(process, "inversion time")


def curves_of(table: DataFrame, column: str) -> Curves:
    """Return the curves of a column over the x axis, shallow to deep, by their names.

    Raises:
        InputError: The table has no curves over times, or they have different times.
    """
    keys = identify(table)
    if "time" not in table or not len(table):
        raise InputError(
            f"table: it has no curves, only the columns {', '.join(map(str, table.columns))}; give"
            " one with a time"
        )
    if not keys:
        return {"all": table[column].to_numpy(float)}
    several = {key for key in keys if table[key].nunique() > 1} or {keys[-1]}
    curves = {
        ", ".join(
            _name(key, value) for key, value in zip(keys, values, strict=True) if key in several
        ): part[column].to_numpy(float)
        for values, part in table.groupby(keys, sort=False, dropna=False)
    }
    if len({len(curve) for curve in curves.values()}) > 1:
        raise InputError("table: its curves have different times; it cannot be drawn")
    return curves


def identify(table: DataFrame) -> list[str]:
    """Return the columns of a table that identify its curves.

    Steps do only where networks of one number of training data differ in them.
    """
    keys = [key for key in KEYS if key in table]
    if {NUM_TRAIN, STEP} <= set(keys) and (
        table.groupby(NUM_TRAIN, dropna=False)[STEP].nunique().max() < 2
    ):
        keys.remove(STEP)
    return keys


def _name(key: str, value: object) -> str:
    if key == NUM_TRAIN:
        return "exact" if value == math.inf else f"P = {value:g}"
    if key == STEP:
        return f"step {value}"
    if key in ("m", "L"):
        return f"{key} = {value}"
    return f"level {value}" if key == "level" and not isinstance(value, str) else str(value)


def error_column(table: DataFrame, column: str) -> str:
    """Return the column of a column's standard error; empty if there is none."""
    own = QUANTITIES[column].error if column in QUANTITIES else ""
    return next((name for name in (f"{column}_sem", own) if name in table), "")


def list_quantities(table: DataFrame) -> list[str]:
    """Return the columns of a table that are drawn; none if it has no curves over times."""
    # A histogram's count of true symbols has the name of a belief.
    if "time" not in table or not is_numeric_dtype(table["time"]) or "low" in table:
        return []
    return [x for x in _present(table) if is_numeric_dtype(table[x])]


def _present(table: DataFrame) -> list[str]:
    """Return the columns of `QUANTITIES`; the mean beside chi is that of changes."""
    return [x for x in QUANTITIES if x in table and not (x == "mean" and "chi" in table)]


def is_drawn(table: DataFrame) -> bool:
    """Return whether `table_figure` can draw a table."""
    columns = list_quantities(table)
    try:
        panels = [_panel(table, column) for column in columns]
        x_values = curves_of(table, x_axis(table)[0]) if panels else {"": np.empty(0)}
    except (InputError, ValueError):  # damaged, or of a kind without curves
        return False
    return len(next(iter(x_values.values()))) > 1


def table_figure(table: DataFrame, *columns: str) -> Figure:
    """Draw the curves of a table, with bands of one standard error and dashed theory.

    Args:
        table: A run's table, or an average of several, of similarities or of reconstruction.
        *columns: The columns that are drawn; by default all of `QUANTITIES`. Of a table with
            levels of several trainings, the first one that it has, by default `unchanged`,
            `strings` or else any, in a panel per training, with exact inference dashed.

    Raises:
        InputError: It has no such curves.
    """
    x, label = x_axis(table)
    present = _present(table)
    if not (columns or present):
        raise InputError(f"table: it has none of {', '.join(QUANTITIES)} to draw; give another")
    if "level" in table and NUM_TRAIN in table:
        return _training_figure(table, columns or ("unchanged", "strings", *present))
    panels = [_panel(table, column) for column in columns or present]
    x_values = next(iter(curves_of(table, x).values()))
    return curve_figure(x_values, label, panels, legend_title(table))


def _training_figure(table: DataFrame, columns: Sequence[str]) -> Figure:
    """Draw the levels of each training in a panel of its own."""
    column = next((x for x in columns if x in table), None)
    if column is None:
        raise InputError(f"table: it has none of {', '.join(columns)} to draw; give another")
    keys = [key for key in identify(table) if key in (NUM_TRAIN, STEP)]
    panels, x_values = {}, {}
    for values, part in table.groupby(keys, sort=False, dropna=False):
        name = _training_name(keys, values)
        rows = part.drop(columns=[key for key in (NUM_TRAIN, STEP) if key in part])
        panels[name] = _panel(rows, column)
        x_values = curves_of(rows, x_axis(rows)[0])
    x = next(iter(x_values.values()))
    compared = compare_panels(panels, *(["exact"] if "exact" in panels else []))
    return curve_figure(x, x_axis(table)[1], compared, legend_title(table))


def _training_name(keys: Sequence[str], values: Sequence[object]) -> str:
    """Return the name of a training; exact inference has no steps."""
    names = [_name(key, value) for key, value in zip(keys, values, strict=True)]
    return "exact" if "exact" in names else ", ".join(names)


def legend_title(table: DataFrame) -> str:
    """Return what the curves of a table are called."""
    names = {"layer": "layer", "level": "level", "message": "message", NUM_TRAIN: "training"}
    return next((name for key, name in names.items() if key in table), "grammars")


def _panel(table: DataFrame, column: str) -> Panel:
    quantity = QUANTITIES[column]
    error, theory = error_column(table, column), quantity.theory
    return Panel(
        quantity.label,
        curves_of(table, column),
        bands=curves_of(table, error) if error else {},
        theory=curves_of(table, theory) if theory in table else {},
        theory_label="theory",
        unit=quantity.unit,
        log=quantity.log,
    )
