"""Runs side by side: their curves, differences, and the places of their transitions."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.figure import Figure
from pandas import DataFrame

from lit_hier.errors import InputError, one_line
from lit_hier.figures import OverlaidCurve, Panel, curve_figure, overlay_figure
from lit_hier.metrics import locate_transition
from lit_hier.results.drawing import (
    KEYS,
    QUANTITIES,
    curves_of,
    error_column,
    identify,
    is_drawn,
    legend_title,
    list_quantities,
    x_axis,
)
from lit_hier.results.runs import Run

_COLUMN: Final = "marginal"


def compare_runs(
    runs: Mapping[tuple[str, str], Run],
    tables: Sequence[str],
    theory: str = "",
    names: tuple[str, str] = ("panel", "line"),
) -> tuple[DataFrame, Figure]:
    """Lay the class's reconstruction of several runs over each other, against several axes.

    The place of a transition is where the probability of the true class is half way between 1 and
    chance, 1/n; its width is the distance between three quarters and one quarter of this height.
    Their standard errors are those of the bootstrap over grammars or, for one grammar, over its
    data, at the run's values of the x axis: the error of a measured x axis is not part of them.

    Args:
        runs: By panel and line.
        tables: Tables of `Reconstruction`, one per x axis, such as `reconstruction_against_noise`.
        theory: The table from which theory is taken, whose rows have the same times and levels;
            by default each table's own.
        names: What panels and lines are called.

    Returns:
        A table with a row per run and axis: its panel and line under their names, axis (the
        column of the x axis), place, place_sem, width, width_sem, theory_place, theory_place_sem,
        theory_width, theory_width_sem (NaN where there is no theory or no transition, see
        `lit_hier.metrics.theory_errors`), grammars, count; and the figure, a row of
        panels per panel, a column per table, bands of one standard error, theory dashed.

    Raises:
        InputError: A run lacks a table or the samples of one, or its data are not of grammars.
    """
    panels: dict[str, list[dict[str, OverlaidCurve]]] = {}
    rows, labels = [], {}
    for (panel, line), run in runs.items():
        columns = panels.setdefault(panel, [{} for _ in tables])
        prediction = _root(run.table(theory)) if theory else None
        chance = 1 / _num_classes(run)
        for column, name in zip(columns, tables, strict=True):
            root = _root(run.table(name))
            axis, labels[name] = x_axis(root)
            predicted, error = _align(root, root if prediction is None else prediction)
            x, y = (root[key].to_numpy(float) for key in (axis, _COLUMN))
            band = root[error_column(root, _COLUMN)].to_numpy(float)
            column[line] = OverlaidCurve(x, y, band, predicted)
            values, source = _root_samples(run, name)
            rows.append(
                dict(zip(names, (panel, line), strict=True))
                | {"axis": axis, **_locate(x, y, values, source, predicted, error, chance)}
                | {"grammars": len(np.unique(source)), "count": len(source)}
            )
    ylabel = "probability of the true class"
    xlabels = [labels[name] for name in tables]
    return DataFrame(rows), overlay_figure(panels, xlabels, ylabel, names[1])


def find_transitions(run: Run) -> DataFrame:
    """Locate the transition of the class in each of a run's tables of `Reconstruction`.

    See `compare_runs`. Nothing is measured again.

    Returns:
        A row per table, of which each sample's values are known: table, axis, place, place_sem,
        width, width_sem, theory_place, theory_place_sem, theory_width, theory_width_sem, grammars,
        count; no row for other runs.
    """
    rows = []
    for name in run.tables:
        table = run.table(name)
        if not {"level", "time", _COLUMN, "theory"} <= set(table.columns):
            continue
        # Tables of data without a grammar, or without samples, have no place.
        with suppress(InputError, LookupError, TypeError, ValueError):
            root = _root(table)
            axis, _ = x_axis(root)
            x, y = (root[key].to_numpy(float) for key in (axis, _COLUMN))
            values, source = _root_samples(run, name)
            theory, error = _align(root, root)
            found = _locate(x, y, values, source, theory, error, 1 / _num_classes(run))
            numbers = {"grammars": len(np.unique(source)), "count": len(source)}
            rows.append({"table": name, "axis": axis, **found, **numbers})
    return DataFrame(rows)


def compare_tables(first: DataFrame, second: DataFrame) -> DataFrame:
    """Subtract the quantities of a run's table from those of another one.

    Args:
        first: A table with curves.
        second: One of the same measurement, over the same axis.

    Returns:
        A row per time and curve that both have, with the columns that identify it and, for each
        quantity that is drawn: {quantity}_a, {quantity}_b, {quantity}_difference (b - a) and
        {quantity}_difference_sem: sqrt(sem_a^2 + sem_b^2), as of independent runs, which is too
        large for runs on the same data; NaN where an error is unknown.

    Raises:
        InputError: They have no curves or other axes, or no time and curve in common.
    """
    quantities = [name for name in list_quantities(first) if name in list_quantities(second)]
    curves = [key for key in KEYS if key in {*identify(first), *identify(second)}]
    keys = [key for key in ("process", "time", *curves) if key in first and key in second]
    if not quantities or "time" not in keys:
        raise InputError("compare: the tables have no curves in common; give two of one kind")
    parts = []
    for table in (first, second):
        columns = {name: table[name] for name in quantities}
        for name in quantities:
            error = error_column(table, name)
            columns[f"{name}_error"] = table[error] if error else np.nan  # type: ignore[assignment]
        parts.append(table[keys].assign(**columns))
    try:
        merged = parts[0].merge(
            parts[1], on=keys, suffixes=("_a", "_b"), sort=False, validate="one_to_one"
        )
    except ValueError as error:  # of other types, or not unique
        raise InputError(
            f"compare: the tables' rows do not fit together: {one_line(error)[:150]}; give runs of"
            " one experiment"
        ) from error
    if not len(merged):
        raise InputError(
            "compare: the runs have no inversion time and curve in common; give runs of one"
            " process with the same times"
        )
    compared = merged[keys].copy()
    for name in quantities:
        a, b = merged[f"{name}_a"], merged[f"{name}_b"]
        errors = merged[f"{name}_error_a"], merged[f"{name}_error_b"]
        compared[f"{name}_a"], compared[f"{name}_b"] = a, b
        compared[f"{name}_difference"] = b - a
        compared[f"{name}_difference_sem"] = np.hypot(*(x.to_numpy(float) for x in errors))
    return compared


def comparison_figure(compared: DataFrame, names: tuple[str, str]) -> Figure:
    """Draw two runs on the same axes, and their difference with its standard error.

    Args:
        compared: What `compare_tables` returned.
        names: Names of the runs.

    Raises:
        InputError: Curves have different times, or one time only.
    """
    column = next(name for name in QUANTITIES if f"{name}_a" in compared)
    label = QUANTITIES[column].label
    difference, sem = (f"{column}_difference{suffix}" for suffix in ("", "_sem"))
    panels = [
        Panel(f"{label}\nA: {names[0]}", curves_of(compared, f"{column}_a")),
        Panel(f"{label}\nB: {names[1]}", curves_of(compared, f"{column}_b")),
        Panel(
            "difference B - A",
            curves_of(compared, difference),
            bands=curves_of(compared, sem),
            unit="difference",
        ),
    ]
    x = next(iter(curves_of(compared, "time").values()))
    return curve_figure(x, x_axis(compared)[1], panels, legend_title(compared))


def difference_of_transitions(first: Run, second: Run) -> DataFrame:
    """Compare the places and widths of two runs' transitions.

    Returns:
        A row per table that both have: table, axis, then for place and width {name}_a,
        {name}_a_sem, {name}_b, {name}_b_sem, {name}_difference (b - a) and
        {name}_difference_sem, as of independent runs.
    """
    found = [find_transitions(run) for run in (first, second)]
    if not all(map(len, found)):
        return DataFrame()
    merged = found[0].merge(found[1], on=["table", "axis"], suffixes=("_a", "_b"))
    compared = merged[["table", "axis"]].copy()
    for name in ("place", "width"):
        for side in "ab":
            compared[f"{name}_{side}"] = merged[f"{name}_{side}"]
            compared[f"{name}_{side}_sem"] = merged[f"{name}_sem_{side}"]
        compared[f"{name}_difference"] = merged[f"{name}_b"] - merged[f"{name}_a"]
        compared[f"{name}_difference_sem"] = np.hypot(
            merged[f"{name}_sem_a"], merged[f"{name}_sem_b"]
        )
    return compared


def list_comparable(first: Run, second: Run) -> list[str]:
    """Return the names of the tables with curves that two runs both have.

    Raises:
        InputError: There is none.
    """
    names = [name for name in first.figures if name in second.tables]
    names = [name for name in names if is_drawn(second.table(name))]
    if not names:
        raise InputError(
            f"compare: {first.name} and {second.name} have no table with curves in common; they"
            f" have {', '.join(first.tables) or 'none'} and {', '.join(second.tables) or 'none'}"
        )
    return names


def _root(table: DataFrame) -> DataFrame:
    if not {"level", "time", _COLUMN} <= set(table.columns):
        raise InputError(
            "compare: a table has no level, time and marginal; give those of Reconstruction"
        )
    root: DataFrame = table[table["level"] == table["level"].max()]
    return root


def _align(root: DataFrame, theory: DataFrame) -> Float64[np.ndarray, "2 T"]:
    """Return the theory at a curve's times, and its standard error."""
    if not np.array_equal(root["time"], theory["time"]):
        raise InputError("compare: theory is a table of other times; give one of the same runs")
    known = theory.reindex(columns=["theory", "theory_sem"])  # earlier versions wrote no errors
    return known.to_numpy(float).T


def _root_samples(
    run: Run, name: str
) -> tuple[Float64[np.ndarray, "T N"], Int64[np.ndarray, " N"]]:
    samples = run.samples(name)
    return samples[_COLUMN][:, -1].astype(np.float64), samples["source"]


def _locate(
    x: Float64[np.ndarray, " T"],
    y: Float64[np.ndarray, " T"],
    values: Float64[np.ndarray, "T N"],
    source: Int64[np.ndarray, " N"],
    theory: Float64[np.ndarray, " T"],
    theory_error: Float64[np.ndarray, " T"],
    chance: float,
) -> dict[str, float]:
    """Return the columns of the transitions of a curve and of its theory."""
    found = locate_transition(x, y, values, source, theory, theory_error, chance)
    return {
        column: number
        for name, pair in found.items()
        for column, number in zip((name, f"{name}_sem"), pair, strict=True)
    }


def _num_classes(run: Run) -> int:
    """Return n, from the config."""
    try:
        arguments = run.config["data"]["init_args"]["rhm"]["init_args"]
        return int(arguments.get("num_classes") or arguments["num_features"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"compare: the data of {run.folder} are not of an RHM's parameters; compare such runs"
        ) from error
