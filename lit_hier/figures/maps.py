"""Iterated maps, with their fixed points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray


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
    figure = Figure(figsize=(5.6, 5), dpi=130, layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    for k, curve in enumerate(curves):
        color = f"C{k}"
        x_errors, y_errors = curve.errors
        ax.errorbar(*curve.points, y_errors, x_errors, "o", color=color, markersize=3, alpha=0.35,
                    markeredgewidth=0, elinewidth=0.8)  # fmt: skip
        ax.plot(*curve.theory, color=color, linewidth=1.4)
        ax.plot([], [], color=color, label=curve.label)
        for point, stable in zip(curve.fixed, curve.stable, strict=True):
            face = color if stable else "white"
            ax.plot(point, point, "s", color=color, markerfacecolor=face, markersize=7)
    ax.plot([], [], "o", color="0.4", markersize=3, alpha=0.5, label="belief propagation")
    ax.plot([], [], "s", color="0.4", label="attractive fixed point")
    ax.plot([], [], "s", color="0.4", markerfacecolor="white", label="repulsive fixed point")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend(fontsize="small", frameon=False)
    return figure
