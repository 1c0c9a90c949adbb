"""Curves over inversion times: panels side by side, and a panel per level."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

_GRID_COLUMNS: Final = 4


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        ylabel: The label of the y axis.
        curves: Values over times by the curve's name, shallow to deep.
        bands: Half-widths of the bands around curves, by the same names.
        theory: Predictions, dashed, by the same names; NaN is omitted.
        theory_label: The predictions' entry in the legend.
        compared: Curves of something else, such as unrelated data, dotted, in their curve's color,
            by the same names; NaN is omitted.
        compared_label: Their entry in the legend.
        unit: The unit of the y axis; panels of one unit share its scale.
    """

    ylabel: str
    curves: Mapping[str, ArrayLike]
    bands: Mapping[str, ArrayLike] = field(default_factory=dict)
    theory: Mapping[str, ArrayLike] = field(default_factory=dict)
    theory_label: str = "mean field"
    compared: Mapping[str, ArrayLike] = field(default_factory=dict)
    compared_label: str = "comparison"
    unit: str = ""


def curve_figure(
    x: ArrayLike,
    xlabel: str,
    panels: Sequence[Panel],
    legend: str,
    critical: float = math.nan,
) -> Figure:
    """Draw curves, one color per layer or level, from dark (shallow) to bright (deep).

    Args:
        x: Values of the x axis, shape (T,).
        xlabel: Its label.
        panels: Panels side by side, from four on in two rows; all have the same curves.
        legend: The title of the legend.
        critical: The x of the predicted transition, marked by a line; NaN if there is none.
    """
    rows = 1 if len(panels) < 4 else 2
    columns = -(-len(panels) // rows)
    size = (5.2 * columns + 1.4, 4.2 * rows)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns))[: len(panels)]
    first = {panel.unit: ax for ax, panel in zip(axes[::-1], panels[::-1], strict=True)}
    for ax, panel in zip(axes, panels, strict=True):
        if ax is not first[panel.unit]:
            ax.sharey(first[panel.unit])
    x = np.asarray(x, dtype=np.float64)
    for ax, panel in zip(axes, panels, strict=True):
        colors = colormaps["viridis"](np.linspace(0, 0.93, len(panel.curves)))
        for color, (name, values) in zip(colors, panel.curves.items(), strict=True):
            y = np.asarray(values, dtype=np.float64)
            ax.plot(x, y, "o-", color=color, label=name, markersize=3, linewidth=1.4)
            if name in panel.bands:
                half = np.asarray(panel.bands[name], dtype=np.float64)
                ax.fill_between(x, y - half, y + half, color=color, alpha=0.2, linewidth=0)
            if name in panel.compared:
                ax.plot(x, np.asarray(panel.compared[name]), ":", color=color, linewidth=0.9)
        if any(np.isfinite(np.asarray(part)).any() for part in panel.compared.values()):
            ax.plot([], [], "k:", linewidth=0.9, label=panel.compared_label)
        dashes = [y for y in panel.theory.values() if np.isfinite(np.asarray(y)).any()]
        for k, dashed in enumerate(dashes):
            label = panel.theory_label if k == 0 else None
            ax.plot(x, np.asarray(dashed), "k--", linewidth=0.8, alpha=0.7, label=label)
        if math.isfinite(critical):
            ax.axvline(critical, color="0.5", linestyle=":", linewidth=1.2)
            ax.annotate(
                "predicted transition",
                (critical, 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="right",
                va="bottom",
                fontsize="x-small",
                color="0.4",
            )
        if x[0] > x[-1]:  # so that noise grows to the right
            ax.invert_xaxis()
        ax.set_xlabel(xlabel)
        ax.set_ylabel(panel.ylabel)
        ax.grid(alpha=0.25, linewidth=0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", title=legend, fontsize="small", frameon=False
    )
    return figure


def level_figure(
    x: ArrayLike,
    xlabel: str,
    ylabel: str,
    columns: Mapping[str, Mapping[str, ArrayLike]],
    theory_label: str = "mean field",
) -> Figure:
    """Draw a panel with all levels, then a panel per level (Figs. 12-14).

    Args:
        x: Values of the x axis, shape (T,).
        xlabel: Its label.
        ylabel: The label of the y axis.
        columns: Values over times by the level's name, for `largest`, with `largest_std` as its
            band, `true`, dotted, and `theory`, dashed.
        theory_label: The theory's entry in the legend.
    """
    names = list(columns["largest"])
    rows = -(-(len(names) + 1) // _GRID_COLUMNS)
    figure = Figure(figsize=(3 * _GRID_COLUMNS, 2.4 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, _GRID_COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    colors = colormaps["viridis"](np.linspace(0, 0.93, len(names)))
    x = np.asarray(x, dtype=np.float64)
    for ax, color, name in zip(axes[1:], colors, names, strict=False):
        mean, std = (np.asarray(columns[key][name]) for key in ("largest", "largest_std"))
        for panel in (axes[0], ax):
            panel.plot(x, mean, "o-", color=color, markersize=2, linewidth=1.2, label="largest")
        ax.fill_between(x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
        ax.plot(x, np.asarray(columns["true"][name]), ":", color=color, label="true symbol")
        ax.plot(x, np.asarray(columns["theory"][name]), "k--", linewidth=0.9, label=theory_label)
        ax.set_title(name, fontsize="small")
    if x[0] > x[-1]:  # the axes share it
        axes[0].invert_xaxis()
    axes[0].set_title("all levels", fontsize="small")
    axes[1].legend(fontsize="x-small", frameon=False, loc="lower left")
    for ax in axes[len(names) + 1 :]:
        ax.set_axis_off()
    for ax in axes[: len(names) + 1]:
        ax.set_ylim(-0.03, 1.05)
        ax.grid(alpha=0.25, linewidth=0.6)
    figure.supxlabel(xlabel, fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    return figure
