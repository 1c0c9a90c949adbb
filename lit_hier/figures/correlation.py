"""Correlated changes: susceptibility, decay with distance, correlation length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from lit_hier.figures.style import EXACT_LABEL
from lit_hier.metrics import Correlation

_NUM_SHOWN = 5
_MOST_INSIDE = 4  # curves whose legend leaves room for them


@dataclass(frozen=True)
class CorrelationCurve:
    """The correlated changes of one set of data.

    Attributes:
        name: Its entry in the legend.
        estimate: What was measured.
        sem: Its standard errors.
        theory: Its prediction; NaN where there is none.
        lengths: Distances in sites.
        critical: The predicted transition; NaN if there is none.
        exponent: nu; NaN if it is unknown.
        stretch: s^(L/nu), by which distances from the transition grow; NaN if it is unknown.
        growth: The sum of (s lambda^2)^l over the levels l = 0 to L, in proportion to which chi
            grows at the transition; NaN if it is unknown.
    """

    name: str
    estimate: Correlation
    sem: Correlation
    theory: Correlation
    lengths: NDArray[np.floating]
    critical: float
    exponent: float
    stretch: float = math.nan
    growth: float = math.nan


def correlation_figure(
    x: NDArray[np.floating],
    xlabel: str,
    curves: Sequence[CorrelationCurve],
    shown: Sequence[int],
    symbol: str,
    unit: str,
    theory_label: str = "mean field",
) -> Figure:
    """Draw chi against the time, C(r)/C(0) of the last curve, and, with a theory, xi.

    For several curves with a theory, a last panel has chi on the axes of finite-size scaling.

    Args:
        x: Inversion times, shape (T,).
        xlabel: Their label.
        curves: Curves, shallow to deep; at least one.
        shown: Indices of the times whose C(r) is drawn; if empty, some with the largest chi.
        symbol: The symbol of the time.
        unit: What a site is.
        theory_label: The predictions' entry in the legend.
    """
    scaling = [curve for curve in curves if math.isfinite(curve.critical + curve.exponent)]
    collapsing = [curve for curve in scaling if math.isfinite(curve.stretch + curve.growth)]
    num = 2 + bool(scaling) + (len(collapsing) > 1)
    beside = len(curves) > _MOST_INSIDE
    width = 4.6 * num + 1.8 * beside
    figure = Figure(figsize=(width, 4.0), dpi=130, layout="constrained")
    axes = figure.subplots(1, num)
    _draw_chi(axes[0], [x] * len(curves), curves, [1.0] * len(curves))
    _mark_transition(axes[0], curves[0].critical)
    axes[0].set(xlabel=xlabel, ylabel=f"susceptibility χ ({unit} that change together)")
    _draw_decay(axes[1], x, curves[-1], shown, symbol, unit)
    if scaling:
        _draw_lengths(axes[2], x, scaling, symbol, unit)
    if len(collapsing) > 1:
        scaled = [(x - curve.critical) * curve.stretch for curve in collapsing]
        _draw_chi(axes[3], scaled, collapsing, [curve.growth for curve in collapsing])
        axes[3].set_xlim(max(x[0] for x in scaled), min(x[-1] for x in scaled))
        axes[3].set(xlabel=f"({symbol} − {symbol}*) $s^{{L/\\nu}}$",
                    ylabel="χ / $\\sum_{l=0}^{L} (s \\lambda^2)^l$")  # fmt: skip
    if any(np.isfinite(curve.theory.susceptibility).any() for curve in curves):
        axes[0].plot([], [], "k--", linewidth=0.9, label=theory_label)
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if beside else {}
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize="small", frameon=False, **place)
    for ax in axes:
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure


def over_reference(
    curves: Sequence[CorrelationCurve], reference: str
) -> tuple[list[CorrelationCurve], str]:
    """Put a curve in the place of the others' predictions: that of exact inference.

    Args:
        curves: Curves, the reference among them.
        reference: Its name.

    Returns:
        The other curves, if there are any, and the entry of the predictions in the legend.
    """
    (exact,) = (curve for curve in curves if curve.name == reference)
    others = [replace(x, theory=exact.estimate) for x in curves if x is not exact]
    return (others, EXACT_LABEL) if others else ([exact], "mean field")


def _draw_chi(
    ax: Axes,
    x: Sequence[NDArray[np.floating]],
    curves: Sequence[CorrelationCurve],
    units: Sequence[float],
) -> None:
    """Draw chi of each curve in a unit of its own."""
    colors = colormaps["viridis"](np.linspace(0, 0.85, len(curves)))
    for color, where, curve, unit in zip(colors, x, curves, units, strict=True):
        y, error = curve.estimate.susceptibility / unit, curve.sem.susceptibility / unit
        half = np.nan_to_num(error)
        ax.plot(where, y, "o-", color=color, markersize=3, linewidth=1.2, label=curve.name)
        ax.fill_between(where, y - half, y + half, color=color, alpha=0.25, linewidth=0)
        ax.plot(where, curve.theory.susceptibility / unit, "k--", linewidth=0.9)


def _mark_transition(ax: Axes, critical: float) -> None:
    if math.isfinite(critical):
        ax.axvline(critical, color="0.5", linestyle=":", linewidth=1.2, label="predicted, L → ∞")


def _draw_decay(
    ax: Axes,
    x: NDArray[np.floating],
    curve: CorrelationCurve,
    shown: Sequence[int],
    symbol: str,
    unit: str,
) -> None:
    """Draw C(r)/C(0) against r at some of the times at which spins vary."""
    chi = np.nan_to_num(curve.estimate.susceptibility)
    if not shown:
        varied = np.flatnonzero(np.isfinite(curve.estimate.susceptibility))
        peak = int(np.searchsorted(varied, chi.argmax()))
        around = np.unique(np.linspace(0, len(varied) - 1, _NUM_SHOWN).round().astype(int))
        shown = varied[np.union1d(around, [min(peak, len(varied) - 1)])] if len(varied) else ()
    shown = [k for k in shown if np.isfinite(curve.estimate.susceptibility[k])]
    lowest = 1.0
    colors = colormaps["plasma"](np.linspace(0, 0.85, len(shown)))
    for color, k in zip(colors, shown, strict=True):
        scale = curve.estimate.correlation[k, 0]
        y, error = (part.correlation[k, 1:] / scale for part in (curve.estimate, curve.sem))
        predicted = curve.theory.correlation[k]
        dashed = predicted[1:] / predicted[0] if len(predicted) > 1 else np.full_like(y, np.nan)
        label = f"{symbol} = {x[k]:g}"
        lowest = min(lowest, _draw_powers(ax, curve.lengths[1:], y, error, dashed, color, label))
    ax.set(xlabel=f"distance r ({unit})", ylabel="C(r) / C(0)")
    ax.set_ylim(lowest / 3, 1.3)
    ax.set_title(curve.name, fontsize="small")
    if len(shown):
        ax.legend(fontsize="small", frameon=False)


def _draw_powers(
    ax: Axes,
    r: NDArray[np.floating],
    y: NDArray[np.floating],
    sem: NDArray[np.floating],
    theory: NDArray[np.floating],
    color: Any,
    label: str | None = None,
) -> float:
    """Draw C(r)/C(0) against r, both logarithmic, where it is known; return the lowest drawn."""
    error = np.nan_to_num(sem)
    seen = y > error
    ax.errorbar(r[seen], y[seen], error[seen], fmt="o-", color=color, markersize=3, linewidth=1,
                label=label)  # fmt: skip
    ax.plot(r, np.where(theory > 0, theory, np.nan), "--", color=color, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return float(y[seen].min(initial=1.0))


def _draw_lengths(
    ax: Axes, x: NDArray[np.floating], curves: Sequence[CorrelationCurve], symbol: str, unit: str
) -> None:
    """Draw xi against the distance from the predicted transition, both logarithmic."""
    colors = colormaps["viridis"](np.linspace(0, 0.85, len(curves)))
    styles: tuple[dict[str, Any], ...] = ({"marker": "o"}, {"marker": "s", "markerfacecolor": "w"})
    for color, curve in zip(colors, curves, strict=True):
        for side, style in zip((-1, 1), styles, strict=True):
            away = side * (x - curve.critical)
            kept = away > 0
            order = np.argsort(away[kept])
            where = f"{symbol} {'<' if side < 0 else '>'} {symbol}*"
            ax.errorbar(away[kept][order], curve.estimate.length[kept][order],
                        np.nan_to_num(curve.sem.length[kept][order]), color=color, markersize=4,
                        linewidth=0.8, label=f"{curve.name}, {where}", **style)  # fmt: skip
            ax.plot(away[kept][order], curve.theory.length[kept][order], "k--", linewidth=0.7)
    last = curves[-1]
    away, length = np.abs(x - last.critical), last.estimate.length
    known = np.isfinite(length) & (away > 0)
    if known.any():
        highest, lowest = length[known].max(), length[known].min()
        near = np.geomspace(away[known].min(), away[known].max(), 100)
        middle = away[known][np.abs(np.log(length[known] ** 2 / (highest * lowest))).argmin()]
        guide = (highest * lowest) ** 0.5 * (near / middle) ** -last.exponent
        inside = (guide < highest) & (guide > lowest)
        label = f"slope −ν = −{last.exponent:.2f}"
        ax.plot(near[inside], guide[inside], color="0.6", linewidth=1.5, label=label)
    ax.set(xscale="log", yscale="log", xlabel=f"|{symbol} − {symbol}*|",
           ylabel=f"correlation length ξ ({unit})")  # fmt: skip
    ax.legend(fontsize="x-small", frameon=False)


@dataclass(frozen=True)
class Decay:
    """The susceptibility of one experiment, and C(r)/C(0) at one time.

    Attributes:
        title: What the panels show.
        xlabel: The label of the times.
        times: Inversion times, shape (T,).
        chi: Susceptibility, shape (T,).
        chi_sem: Its standard error, shape (T,).
        chi_theory: Its prediction, shape (T,); NaN where there is none.
        lengths: Distances from 1 on, shape (distances,).
        correlation: C(r)/C(0), shape (distances,).
        correlation_sem: Its standard error, shape (distances,).
        correlation_theory: Its prediction, shape (distances,); NaN where there is none.
    """

    title: str
    xlabel: str
    times: NDArray[np.floating]
    chi: NDArray[np.floating]
    chi_sem: NDArray[np.floating]
    chi_theory: NDArray[np.floating]
    lengths: NDArray[np.floating]
    correlation: NDArray[np.floating]
    correlation_sem: NDArray[np.floating]
    correlation_theory: NDArray[np.floating]


def control_figure(columns: Sequence[Decay], sentence: str) -> Figure:
    """Draw several experiments side by side: chi above, C(r)/C(0) at the largest chi below.

    Args:
        columns: The experiments.
        sentence: What the figure tells; its title.
    """
    figure = Figure(figsize=(3.7 * len(columns), 6.6), dpi=130, layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False)
    lowest = 1.0
    for top, bottom, found in zip(*axes, columns, strict=True):
        half = np.nan_to_num(found.chi_sem)
        top.errorbar(found.times, found.chi, half, fmt="o-", markersize=3, linewidth=1)
        top.plot(found.times, found.chi_theory, "k--", linewidth=0.9)
        top.set(xlabel=found.xlabel, ylabel="susceptibility χ")
        top.set_title(found.title, fontsize="medium")
        curves = (found.correlation, found.correlation_sem, found.correlation_theory)
        lowest = min(lowest, _draw_powers(bottom, found.lengths, *curves, "C1"))
        bottom.set(xlabel="distance r", ylabel="C(r) / C(0) at the largest χ")
        for ax in (top, bottom):
            ax.grid(alpha=0.25, linewidth=0.6)
    for ax in axes[1]:
        ax.set_ylim(lowest / 2, 1.3)
    figure.suptitle(sentence, fontsize="medium")
    return figure
