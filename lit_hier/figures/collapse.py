"""Finite-size collapse: curves of several depths on one scaled axis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from lit_hier.metrics import Exponent


@dataclass(frozen=True)
class Collapse:
    """Curves that collapse, and widths; lists and arrays have an entry per curve.

    Attributes:
        names: Entries of the legend, shallow to deep.
        critical: The predicted transition.
        scaled: Scaled times, each of shape (T,).
        curves: Curves, each of shape (T,).
        bands: Their standard errors, each of shape (T,).
        theory: Their predictions, each of shape (T,); NaN is omitted.
        log_size: L ln s.
        width: Widths.
        width_sem: Their standard errors.
        exponent: nu, as fitted to the widths.
        exponent_theory: nu, as predicted; NaN if it is unknown.
        exponent_of_theory: nu, as fitted to the widths of the predictions.
    """

    names: Sequence[str]
    critical: float
    scaled: Sequence[NDArray[np.floating]]
    curves: Sequence[NDArray[np.floating]]
    bands: Sequence[NDArray[np.floating]]
    theory: Sequence[NDArray[np.floating]]
    log_size: NDArray[np.floating]
    width: NDArray[np.floating]
    width_sem: NDArray[np.floating]
    exponent: Exponent
    exponent_theory: float
    exponent_of_theory: Exponent


def collapse_figure(collapses: Mapping[int, Collapse], symbol: str, ylabel: str) -> Figure:
    """Draw each collapse, and beside it the widths that its exponent is fitted to.

    Args:
        collapses: By m, one per row.
        symbol: The symbol of the time.
        ylabel: What the curves are.
    """
    num = len(collapses)
    figure = Figure(figsize=(9.6, 4.0 * num), dpi=130, layout="constrained")
    axes = figure.subplots(num, 2, squeeze=False)
    for (left, right), (m, found) in zip(axes, collapses.items(), strict=True):
        colors = colormaps["viridis"](np.linspace(0, 0.85, len(found.names)))
        columns = (found.names, found.scaled, found.curves, found.bands, found.theory)
        for color, name, x, y, half, theory in zip(colors, *columns, strict=True):
            error = np.nan_to_num(half)
            left.plot(x, y, "o-", color=color, markersize=3, linewidth=1.2, label=name)
            left.fill_between(x, y - error, y + error, color=color, alpha=0.2, linewidth=0)
            left.plot(x, theory, "k--", linewidth=0.7)
        if np.isfinite(found.theory).any():
            left.plot([], [], "k--", linewidth=0.7, label="theory")
        left.set_xlim(max(x[0] for x in found.scaled), min(x[-1] for x in found.scaled))
        left.set(xlabel=f"({symbol} − {symbol}*) $s^{{L/\\nu}}$", ylabel=ylabel)
        left.set_title(f"m = {m}", fontsize="small")
        left.grid(alpha=0.25, linewidth=0.6)
        left.legend(fontsize="small", frameon=False)
        _draw_widths(right, found)
    return figure


def _draw_widths(ax: Axes, found: Collapse) -> None:
    """Draw ln width against L ln s, with the fitted and the predicted slope."""
    size = np.exp(found.log_size)
    ax.errorbar(size, found.width, np.nan_to_num(found.width_sem), fmt="o", color="C0",
                markersize=4, capsize=2, label="measured")  # fmt: skip
    predicted = Exponent(found.exponent_theory, math.nan)
    for (nu, sem), style, name in (
        (found.exponent, "C0-", "fit"),
        (predicted, "k--", "predicted"),
    ):
        if math.isfinite(nu):
            center = np.nanmean(np.log(found.width) + found.log_size / nu)
            error = f" ± {sem:.2f}" if math.isfinite(sem) else ""
            ax.plot(size, np.exp(center - found.log_size / nu), style, linewidth=1,
                    label=f"{name}: ν = {nu:.3f}{error}")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="leaves $s^L$", ylabel="width of the transition")
    ax.set_xticks(size, [f"{x:.0f}" for x in size])
    ax.minorticks_off()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.legend(fontsize="small", frameon=False)
