"""Curves of several experiments over each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from lit_hier.figures.layout import (
    add_legend,
    band_handle,
    new_figure,
    set_labels,
    set_times,
)
from lit_hier.figures.style import category_styles


@dataclass(frozen=True)
class OverlaidCurve:
    """One curve.

    Attributes:
        x: Values of the x axis, shape (T,).
        y: Values, shape (T,).
        band: Half-width of the band around them, shape (T,); NaN is omitted.
        theory: The prediction, dashed, shape (T,); NaN is omitted.
    """

    x: ArrayLike
    y: ArrayLike
    band: ArrayLike
    theory: ArrayLike


def overlay_figure(
    panels: Mapping[str, Sequence[Mapping[str, OverlaidCurve]]],
    xlabels: Sequence[str],
    ylabel: str,
    legend: str,
) -> Figure:
    """Draw a grid of panels; a curve has the same color and marker in all of them.

    An x axis whose values descend runs from right to left.

    Args:
        panels: For each row, by its title, one mapping of names to curves per column.
        xlabels: Labels of the x axes, one per column.
        ylabel: The label of the y axes.
        legend: The title of the legend.
    """
    rows, columns = len(panels), len(xlabels)
    figure, axes = new_figure(rows * columns, columns, (4.6, 3.4), sharey=True)
    entries: dict[str, Artist] = {}
    titled = [(title, curves) for title, row in panels.items() for curves in row]
    for k, (ax, (title, curves)) in enumerate(zip(axes, titled, strict=True)):
        styles = category_styles(len(curves))
        for (name, curve), (color, marker) in zip(curves.items(), styles, strict=True):
            entries.setdefault(name, _draw(ax, curve, color, marker))
        set_times(ax, np.concatenate([np.asarray(curve.x) for curve in curves.values()]))
        first = np.asarray(next(iter(curves.values())).x)
        ax.xaxis.set_inverted(bool(first[0] > first[-1]))
        ax.set_title(title)
        set_labels(ax, xlabels[k % columns], ylabel)
        ax.grid(alpha=0.25, linewidth=0.6)
    parts = [curve for _, curves in titled for curve in curves.values()]
    if any(np.isfinite(np.asarray(curve.band)).any() for curve in parts):
        entries["± 1 standard error"] = band_handle()
    if any(np.isfinite(np.asarray(curve.theory)).any() for curve in parts):
        entries["theory"] = Line2D([], [], color="k", linestyle="--")
    add_legend(figure, entries, legend)
    return figure


def _draw(ax: Axes, curve: OverlaidCurve, color: str, marker: str) -> Artist:
    """Draw a curve; return what stands for it in the legend."""
    size, width = rcParams["lines.markersize"], rcParams["lines.linewidth"]
    x, y, half = (np.asarray(part, dtype=np.float64) for part in (curve.x, curve.y, curve.band))
    (points,) = ax.plot(x, y, marker, color=color, markersize=0.6 * size)
    ax.plot(x, y, color=color, linewidth=0.5 * width, alpha=0.5)
    ax.fill_between(x, y - half, y + half, color=color, alpha=0.2, linewidth=0)
    ax.plot(x, np.asarray(curve.theory), "--", color=color, linewidth=0.8 * width)
    return points
