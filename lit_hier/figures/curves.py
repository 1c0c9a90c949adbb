"""Curves over inversion times: panels side by side, and a panel per level."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from lit_hier.figures.layout import (
    add_legend,
    band_handle,
    label_columns,
    legend_entries,
    name_ends,
    new_figure,
    set_labels,
    set_sizes,
    set_times,
)
from lit_hier.figures.style import EXACT_LABEL, depth_colors

_GRID_COLUMNS: Final = 4
_CHANCE_STYLES: Final = ("-.", (0, (5, 3, 1, 3, 1, 3)))


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
        chance: Levels of chance, gray, by their entry in the legend.
        band_label: The bands' entry in the legend.
        title: The title.
        log: Whether the y axis is logarithmic; values that are not positive are then omitted.
        theory_colored: Whether each prediction has the color of its curve; else all are black.
    """

    ylabel: str
    curves: Mapping[str, ArrayLike]
    bands: Mapping[str, ArrayLike] = field(default_factory=dict)
    theory: Mapping[str, ArrayLike] = field(default_factory=dict)
    theory_label: str = "mean field"
    compared: Mapping[str, ArrayLike] = field(default_factory=dict)
    compared_label: str = "comparison"
    unit: str = ""
    chance: Mapping[str, float] = field(default_factory=dict)
    band_label: str = "± 1 standard error"
    title: str = ""
    log: bool = False
    theory_colored: bool = False


def compare_panels(panels: Mapping[str, Panel], exact: str = "") -> list[Panel]:
    """Put one quantity of several denoisers side by side, over that of exact inference, dashed.

    Args:
        panels: By the denoiser's name.
        exact: The name of exact inference; empty if it is not among them.
    """
    if exact and len(panels) > 1:
        theory = panels[exact].curves
        compared = [
            replace(
                panel, title=name, theory=theory, theory_label=EXACT_LABEL, theory_colored=True
            )
            for name, panel in panels.items()
            if name != exact
        ]
        return compared
    return [replace(panel, title=name) for name, panel in panels.items()]


def curve_figure(
    x: ArrayLike,
    xlabel: str,
    panels: Sequence[Panel],
    legend: str,
    critical: float = math.nan,
    log: bool = False,
    critical_label: str = "predicted transition",
) -> Figure:
    """Draw curves, one color per layer or level, from dark (shallow) to bright (deep).

    Args:
        x: Values of the x axis, shape (T,).
        xlabel: Its label.
        panels: Panels side by side, from four on in two rows; all have the same curves.
        legend: The title of the legend. The names `level 0`, `level 1`, ... of its curves are
            shortened there; the first ones are the leaves, the last ones the class.
        critical: The x of the predicted transition, marked by a line; NaN if there is none.
        log: Whether the x axis is logarithmic, with a tick at each x.
        critical_label: Its entry in the legend.
    """
    columns = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
    figure, axes = new_figure(len(panels), columns, (5.2, 4.2))
    first = {panel.unit: ax for ax, panel in zip(axes[::-1], panels[::-1], strict=True)}
    for ax, panel in zip(axes, panels, strict=True):
        if ax is not first[panel.unit]:
            ax.sharey(first[panel.unit])
    for unit, ax in first.items():  # a wide band must not make the curves small
        parts = [
            y
            for panel in panels
            if panel.unit == unit
            for lines in (panel.curves, panel.theory, panel.compared)
            for y in lines.values()
        ]
        parts += [list(panel.chance.values()) for panel in panels if panel.unit == unit]
        values = np.concatenate([np.ravel(np.asarray(y, dtype=np.float64)) for y in parts])
        known = values[np.isfinite(values)]
        if any(panel.log for panel in panels if panel.unit == unit):
            ax.set_yscale("log")
            if len(known := known[known > 0]):
                margin = max((known.max() / known.min()) ** 0.07, 1.1)
                ax.set_ylim(known.min() / margin, known.max() * margin)
        elif len(known):
            margin = 0.07 * (np.ptp(known) or 1.0)
            ax.set_ylim(known.min() - margin, known.max() + margin)
    x = np.asarray(x, dtype=np.float64)
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, x, panel)
        if math.isfinite(critical):
            ax.axvline(critical, color="0.75", zorder=1, label=critical_label)
        if log:
            set_sizes(ax, x)
        else:
            set_times(ax, x)
        set_labels(ax, xlabel, panel.ylabel)
        if panel.title:
            ax.set_title(panel.title)
        ax.grid(alpha=0.25, linewidth=0.6)
    add_legend(figure, legend_entries(axes), legend)
    return figure


def _draw(ax: Axes, x: ArrayLike, panel: Panel) -> None:
    """Draw a panel's curves; entries of the legend stand in this order."""
    size, width = rcParams["lines.markersize"] / 2, rcParams["lines.linewidth"]
    names = list(panel.curves)
    # Shallow curves, which are dark, are on top of deep ones where they meet.
    for k, (color, name) in enumerate(zip(depth_colors(len(names)), names, strict=True)):
        label, above = name_ends(names)[k], 2 + 0.5 * (len(names) - k) / len(names)
        y = np.asarray(panel.curves[name], dtype=np.float64)
        ax.plot(x, y, "o-", color=color, label=label, markersize=size, zorder=above)
        if name in panel.bands:
            half = np.asarray(panel.bands[name], dtype=np.float64)
            ax.fill_between(x, y - half, y + half, color=color, alpha=0.25, linewidth=0)
        if name in panel.compared:
            ax.plot(x, np.asarray(panel.compared[name]), ":", color=color, linewidth=0.65 * width)
    if any(np.isfinite(np.asarray(part)).any() for part in panel.bands.values()):
        ax.plot([], [], color="0.5", alpha=0.35, linewidth=6, label=panel.band_label)
    if any(np.isfinite(np.asarray(part)).any() for part in panel.compared.values()):
        ax.plot([], [], "k:", linewidth=0.65 * width, label=panel.compared_label)
    own = dict(zip(names, depth_colors(len(names)), strict=True)) if panel.theory_colored else {}
    dashes = {name: y for name, y in panel.theory.items() if np.isfinite(np.asarray(y)).any()}
    for name, dashed in dashes.items():
        ax.plot(x, np.asarray(dashed), "--", color=own.get(name, "k"), linewidth=0.6 * width,
                alpha=1.0 if own else 0.7, zorder=2.6)  # fmt: skip
    if dashes:
        ax.plot([], [], "k--", linewidth=0.6 * width, alpha=0.7, label=panel.theory_label)
    for style, (label, chance) in zip(_CHANCE_STYLES, panel.chance.items(), strict=False):
        ax.axhline(chance, color="0.45", linestyle=style, linewidth=0.6 * width, label=label)


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
    figure, axes = new_figure(
        len(names) + 1, _GRID_COLUMNS, (3.0, 2.4), 1.5, beside=False, sharex=True, sharey=True
    )
    size, width = rcParams["lines.markersize"] / 3, rcParams["lines.linewidth"]
    x = np.asarray(x, dtype=np.float64)
    ends = name_ends(names)
    colors = depth_colors(len(names))
    for ax, color, name, end in zip(axes[1:], colors, names, ends, strict=True):
        mean, std = (np.asarray(columns[key][name]) for key in ("largest", "largest_std"))
        for panel in (axes[0], ax):
            panel.plot(x, mean, "o-", color=color, markersize=size, linewidth=0.8 * width)
        ax.fill_between(x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
        ax.plot(x, np.asarray(columns["true"][name]), ":", color=color)
        ax.plot(x, np.asarray(columns["theory"][name]), "k--", linewidth=0.6 * width)
        ax.set_title(name if end == name else f"level {end}")
    axes[0].set_title("all levels")
    for ax in axes:
        set_times(ax, x)
        ax.set_ylim(-0.03, 1.05)
        ax.grid(alpha=0.25, linewidth=0.6)
    label_columns(axes, xlabel)
    figure.supylabel(ylabel, fontsize=rcParams["axes.labelsize"])
    entries = {
        "largest": Line2D([], [], color="0.4", marker="o", markersize=size),
        "± 1 standard deviation": band_handle(),
        "true symbol": Line2D([], [], color="0.4", linestyle=":"),
        theory_label: Line2D([], [], color="k", linestyle="--", linewidth=0.6 * width),
    }
    add_legend(figure, entries, beside=False)
    return figure
