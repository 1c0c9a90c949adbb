"""Iterated maps, with their fixed points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from lit_hier.figures.layout import add_legend, new_figure
from lit_hier.figures.style import category_styles


@dataclass(frozen=True)
class MapCurve:
    """One map p -> F(p).

    Attributes:
        label: Its entry in the legend.
        theory: p and F(p); empty if there is none.
        points: Measured p and F(p).
        errors: Their standard errors; NaN where these are unknown.
        fixed: Fixed points; NaN for those that do not exist.
        stable: Whether each of these attracts.
    """

    label: str
    theory: tuple[ArrayLike, ArrayLike]
    points: tuple[ArrayLike, ArrayLike]
    errors: tuple[ArrayLike, ArrayLike]
    fixed: NDArray[np.floating]
    stable: NDArray[np.bool_]


def map_figure(curves: Sequence[MapCurve], xlabel: str, ylabel: str) -> Figure:
    """Draw maps with their diagonal, fixed points and measured points (Fig. 10, left).

    Bars are one standard error.
    """
    figure, (ax,) = new_figure(1, 1, (5.2, 5.2))
    size, width = rcParams["lines.markersize"], rcParams["lines.linewidth"]
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.6 * width)
    entries: dict[str, Artist] = {}
    for curve, (color, marker) in zip(curves, category_styles(len(curves)), strict=True):
        x_errors, y_errors = curve.errors
        ax.errorbar(*curve.points, y_errors, x_errors, marker, color=color, alpha=0.45,
                    markersize=0.6 * size, markeredgewidth=0, elinewidth=0.6 * width)  # fmt: skip
        ax.plot(*curve.theory, color=color)
        entries[curve.label] = Line2D([], [], color=color, marker=marker, markersize=0.6 * size)
        for point, stable in zip(curve.fixed, curve.stable, strict=True):
            face = color if stable else "white"
            ax.plot(point, point, "o", color=color, markerfacecolor=face, markersize=1.3 * size,
                    markeredgewidth=width, zorder=3)  # fmt: skip
    entries["mean field"] = Line2D([], [], color="0.4")
    entries["measured, ± 1 standard error"] = Line2D([], [], marker="+", color="0.4", linestyle="")
    for kind, face in (("attractive", "0.4"), ("repulsive", "white")):
        entries[f"{kind} fixed point"] = Line2D(
            [], [], marker="o", color="0.4", linestyle="", markersize=1.3 * size,
            markerfacecolor=face,
        )  # fmt: skip
    entries["F(p) = p"] = Line2D([], [], color="0.6", linewidth=0.6 * width)
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    add_legend(figure, entries)
    return figure
