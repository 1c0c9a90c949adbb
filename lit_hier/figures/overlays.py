"""Curves of several experiments over each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

# Okabe and Ito's colors, which color-blind readers can tell apart; without yellow, which is pale.
_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")


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
    size = (4.6 * columns + 1.4, 3.4 * rows + 0.3)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, sharex="col", sharey=True, squeeze=False)
    for row, (title, by_column) in zip(axes, panels.items(), strict=True):
        for ax, curves in zip(row, by_column, strict=True):
            for k, (name, curve) in enumerate(curves.items()):
                _draw(ax, name, curve, k)
            first = np.asarray(next(iter(curves.values())).x)
            ax.xaxis.set_inverted(bool(first[0] > first[-1]))
            ax.set_title(title, fontsize="small")
            ax.grid(alpha=0.25, linewidth=0.6)
        row[0].set_ylabel(ylabel)
    for ax, xlabel in zip(axes[-1], xlabels, strict=True):
        ax.set_xlabel(xlabel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    (theory,) = axes[0, 0].plot([], [], "k--", linewidth=1)
    figure.legend(
        [*handles, theory],
        [*labels, "theory"],
        loc="outside right center",
        title=legend,
        fontsize="small",
        frameon=False,
    )
    return figure


def _draw(ax: Axes, name: str, curve: OverlaidCurve, k: int) -> None:
    color, marker = _COLORS[k % len(_COLORS)], _MARKERS[k % len(_MARKERS)]
    x, y, half = (np.asarray(part, dtype=np.float64) for part in (curve.x, curve.y, curve.band))
    ax.plot(x, y, marker, color=color, markersize=3.5, label=name)
    ax.plot(x, y, color=color, linewidth=0.8, alpha=0.5)
    ax.fill_between(x, y - half, y + half, color=color, alpha=0.2, linewidth=0)
    ax.plot(x, np.asarray(curve.theory), "--", color=color, linewidth=1.2)
