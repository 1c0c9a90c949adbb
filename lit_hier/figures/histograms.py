"""Histograms of beliefs."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_hier.figures.layout import add_legend, label_columns, legend_entries, new_figure
from lit_hier.figures.style import CATEGORIES, given_width


def histogram_figure(
    counts: NDArray[np.integer],
    means: NDArray[np.floating],
    theory: NDArray[np.floating],
    names: Sequence[str],
    title: str,
    theory_label: str = "mean field",
) -> Figure:
    """Draw histograms of beliefs: a row per message, a column per level (Fig. 11).

    A figure too narrow for its levels has a column per message and a row per level.

    Args:
        counts: Numbers of true and of other symbols in equal bins of [0, 1], shape (messages,
            levels, 2, bins).
        means: Mean beliefs in the true symbols, shape (messages, levels).
        theory: Their predictions, same shape; NaN if there is none.
        names: Names of the messages.
        title: The title of the figure.
        theory_label: The predictions' entry in the legend.
    """
    num_messages, num_levels, _, num_bins = counts.shape
    width = given_width()
    upright = width is not None and width < 1.2 * num_levels
    across = num_messages if upright else num_levels
    figure, axes = new_figure(
        num_messages * num_levels, across, (2.5, 2.2), 0.3, False, sharex=True, sharey=True
    )
    edges = np.linspace(0, 1, num_bins + 1)
    true_color, mean_color, *_ = CATEGORIES
    for k, ax in enumerate(axes):
        at = (k % across, k // across) if upright else (k // across, k % across)
        for kind, (label, color) in enumerate(
            (("true symbol", true_color), ("other symbols", "0.6"))
        ):
            ax.stairs(counts[at][kind], edges, fill=True, color=color, alpha=0.6, label=label)
        ax.axvline(float(means[at]), color=mean_color, linestyle="--", label="mean of true")
        if math.isfinite(theory[at]):
            ax.axvline(float(theory[at]), color="k", linewidth=0.8, label=theory_label)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        level, message = f"level {at[1]}" + " (leaves)" * (at[1] == 0), names[at[0]]
        if upright:
            level, message = level.replace(" (", "\n("), message.replace(" ", "\n")
        across_name, down_name = (message, level) if upright else (level, message)
        if k < across:
            ax.set_title(across_name)
        if k % across == 0:
            ax.set_ylabel(down_name)
    label_columns(axes, "belief")
    figure.suptitle(title, fontsize="medium")
    add_legend(figure, legend_entries(axes), beside=False)
    return figure
