"""Figures from tables: curves against the inversion time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        ylabel: What the curves show.
        curves: Values over times by the curve's name, in the order of depth.
        bands: Half-widths drawn around curves of the same names.
        theory: Predictions drawn over curves of the same names, dashed; NaN is left out.
    """

    ylabel: str
    curves: Mapping[str, ArrayLike]
    bands: Mapping[str, ArrayLike] = field(default_factory=dict)
    theory: Mapping[str, ArrayLike] = field(default_factory=dict)


def curve_figure(
    times: Sequence[float],
    xlabel: str,
    panels: Sequence[Panel],
    legend: str,
    critical_time: float = math.nan,
) -> Figure:
    """Draw curves, one colour per layer or level, from dark (shallow) to bright (deep).

    Args:
        times: Inversion times, ascending.
        xlabel: What they are.
        panels: Drawn side by side; all have the same curves.
        legend: What tells the curves apart.
        critical_time: The predicted transition, marked by a line; NaN for none.
    """
    figure = Figure(figsize=(5.2 * len(panels) + 1.4, 4.2), dpi=130, layout="constrained")
    axes = np.ravel(figure.subplots(1, len(panels)))
    x = np.asarray(times, dtype=np.float64)
    for ax, panel in zip(axes, panels, strict=True):
        colours = colormaps["viridis"](np.linspace(0, 0.93, len(panel.curves)))
        for colour, (name, values) in zip(colours, panel.curves.items(), strict=True):
            y = np.asarray(values, dtype=np.float64)
            ax.plot(x, y, "o-", color=colour, label=name, markersize=3, linewidth=1.4)
            if name in panel.bands:
                half = np.asarray(panel.bands[name], dtype=np.float64)
                ax.fill_between(x, y - half, y + half, color=colour, alpha=0.2, linewidth=0)
        dashes = [y for y in panel.theory.values() if np.isfinite(np.asarray(y)).any()]
        for k, dashed in enumerate(dashes):
            label = "mean field" if k == 0 else None
            ax.plot(x, np.asarray(dashed), "k--", linewidth=0.8, alpha=0.7, label=label)
        if math.isfinite(critical_time):
            ax.axvline(critical_time, color="0.5", linestyle=":", linewidth=1.2)
            ax.annotate(
                "predicted transition",
                (critical_time, 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="right",
                va="bottom",
                fontsize="x-small",
                color="0.4",
            )
        ax.set_xlabel(xlabel)
        ax.set_ylabel(panel.ylabel)
        ax.grid(alpha=0.25, linewidth=0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", title=legend, fontsize="small", frameon=False
    )
    return figure
