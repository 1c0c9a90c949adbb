"""The root's curves of several runs over each other, and the places of their transitions."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.figure import Figure
from pandas import DataFrame

from lit_hier.errors import InputError
from lit_hier.figures import OverlaidCurve, overlay_figure
from lit_hier.metrics import transition, transition_errors
from lit_hier.results.drawing import error_column, x_axis
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
        column of the x axis), place, place_sem, width, width_sem, theory_place, theory_width
        (NaN where there is no theory or no transition), grammars, count; and the figure, a row of
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
            predicted = _align(root, root if prediction is None else prediction)
            x, y = (root[key].to_numpy(float) for key in (axis, _COLUMN))
            band = root[error_column(root, _COLUMN)].to_numpy(float)
            column[line] = OverlaidCurve(x, y, band, predicted)
            values, source = _root_samples(run, name)
            rows.append(
                dict(zip(names, (panel, line), strict=True))
                | {"axis": axis, **_locate(x, y, values, source, predicted, chance)}
                | {"grammars": len(np.unique(source)), "count": len(source)}
            )
    ylabel = "probability of the true class"
    xlabels = [labels[name] for name in tables]
    return DataFrame(rows), overlay_figure(panels, xlabels, ylabel, names[1])


def _root(table: DataFrame) -> DataFrame:
    if not {"level", "time", _COLUMN} <= set(table.columns):
        raise InputError(
            "compare: a table has no level, time and marginal; give those of Reconstruction"
        )
    root: DataFrame = table[table["level"] == table["level"].max()]
    return root


def _align(root: DataFrame, theory: DataFrame) -> Float64[np.ndarray, " T"]:
    if not np.array_equal(root["time"], theory["time"]):
        raise InputError("compare: theory is a table of other times; give one of the same runs")
    return theory["theory"].to_numpy(float)


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
    chance: float,
) -> dict[str, float]:
    """Locate the transitions of a curve and of its theory; an axis may descend over times."""
    sign = -1 if x[0] > x[-1] else 1
    place, width = transition(sign * x, y, chance)
    place_sem, width_sem = transition_errors(sign * x, values, source, chance)
    theory_place, theory_width = transition(sign * x, theory, chance)
    return {
        "place": sign * float(place),
        "place_sem": float(place_sem),
        "width": float(width),
        "width_sem": float(width_sem),
        "theory_place": sign * float(theory_place),
        "theory_width": float(theory_width),
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
