"""Histograms of beliefs."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def histogram_figure(
    counts: NDArray[np.integer],
    means: NDArray[np.floating],
    theory: NDArray[np.floating],
    names: Sequence[str],
    title: str,
    theory_label: str = "mean field",
) -> Figure:
    """Draw histograms of beliefs: a row per message, a column per level (Fig. 11).

    Args:
        counts: Numbers of true and of other symbols in equal bins of [0, 1], shape (messages,
            levels, 2, bins).
        means: Mean beliefs in the true symbols, shape (messages, levels).
        theory: Their predictions, same shape; NaN if there is none.
        names: Names of the messages.
        title: The title of the figure.
        theory_label: The predictions' entry in the legend.
    """
    rows, columns, _, num_bins = counts.shape
    size = (2.5 * columns + 0.6, 2.2 * rows + 0.6)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    edges = np.linspace(0, 1, num_bins + 1)
    for ax, (row, column) in zip(axes.ravel(), np.ndindex(rows, columns), strict=True):
        for kind, (label, color) in enumerate((("true symbol", "C0"), ("other symbols", "C7"))):
            ax.stairs(counts[row, column, kind], edges, fill=True, color=color, alpha=0.6,
                      label=label)  # fmt: skip
        ax.axvline(float(means[row, column]), color="C3", linestyle="--", label="mean of true")
        if math.isfinite(theory[row, column]):
            ax.axvline(float(theory[row, column]), color="k", linewidth=1, label=theory_label)
        ax.set_yscale("log")
        if not row:
            ax.set_title(f"level {column}", fontsize="small")
        if not column:
            ax.set_ylabel(names[row])
        if row == rows - 1:
            ax.set_xlabel("belief", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small",
                  frameon=False)  # fmt: skip
    return figure
