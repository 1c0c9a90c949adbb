"""Curves against the number of training data."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from lit_hier.figures.curves import Panel, draw_panel
from lit_hier.figures.layout import add_legend, legend_entries, new_figure, set_labels

_MAX_TICKS = 8  # numbers of data that are labeled in a panel


def learning_figure(
    num_train: ArrayLike,
    panels: Sequence[Panel],
    legend: str = "",
    sample_complexity: float = math.nan,
) -> Figure:
    """Draw curves against the number of training data P, on a logarithmic axis.

    Args:
        num_train: P, ascending, shape (K,).
        panels: Panels side by side, from four on in two rows; values have shape (K,).
        legend: The title of the legend.
        sample_complexity: n m^L, marked by a line; NaN if it is unknown.
    """
    columns = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
    figure, axes = new_figure(len(panels), columns, (4.4, 3.6), sharey=True)
    x = np.asarray(num_train, dtype=np.float64)
    for ax, panel in zip(axes, panels, strict=True):
        draw_panel(ax, x, panel)
        if math.isfinite(sample_complexity):
            ax.axvline(sample_complexity, color="0.75", zorder=1, label="$n m^L$")
        _set_numbers(ax, x)
        set_labels(ax, "training data P", panel.ylabel)
        ax.tick_params(labelleft=True)
        ax.grid(alpha=0.25, linewidth=0.6)
    add_legend(figure, legend_entries(axes), legend)
    return figure


def _set_numbers(ax: Axes, x: np.ndarray) -> None:
    """Label the numbers of data themselves, every second or third one if there are many."""
    ax.set_xscale("log", base=2)
    shown = x[:: -(-len(x) // _MAX_TICKS)]
    ax.set_xticks(shown, [f"{value:g}" for value in shown], fontsize=0.85 * _points())
    ax.xaxis.set_minor_locator(NullLocator())


def _points() -> float:
    size = rcParams["xtick.labelsize"]
    return float(size) if isinstance(size, int | float) else float(rcParams["font.size"])
