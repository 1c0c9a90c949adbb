"""Figures from tables: curves against the inversion time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

_GRID_COLUMNS: Final = 4


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        ylabel: What the curves show.
        curves: Values over times by the curve's name, in the order of depth.
        bands: Half-widths drawn around curves of the same names.
        theory: Predictions drawn over curves of the same names, dashed; NaN is left out.
        theory_label: What the predictions are, for the legend.
    """

    ylabel: str
    curves: Mapping[str, ArrayLike]
    bands: Mapping[str, ArrayLike] = field(default_factory=dict)
    theory: Mapping[str, ArrayLike] = field(default_factory=dict)
    theory_label: str = "mean field"


def curve_figure(
    x: ArrayLike,
    xlabel: str,
    panels: Sequence[Panel],
    legend: str,
    critical_time: float = math.nan,
) -> Figure:
    """Draw curves, one colour per layer or level, from dark (shallow) to bright (deep).

    Args:
        x: What curves are drawn against, shape (T,): inversion times, as a rule.
        xlabel: What that is.
        panels: Drawn side by side; all have the same curves.
        legend: What tells the curves apart.
        critical_time: The predicted transition, marked by a line; NaN for none.
    """
    figure = Figure(figsize=(5.2 * len(panels) + 1.4, 4.2), dpi=130, layout="constrained")
    axes = np.ravel(figure.subplots(1, len(panels)))
    x = np.asarray(x, dtype=np.float64)
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
            label = panel.theory_label if k == 0 else None
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


def grid_figure(pictures: NDArray[np.uint8], titles: Sequence[str]) -> Figure:
    """Draw pictures in a grid (Fig. 2, left); those of a single row in several rows (Fig. 1).

    Args:
        pictures: Shape (rows, columns, H, W, C); C is 1 or 3.
        titles: One per column.
    """
    rows, columns, height, width, _ = pictures.shape
    if rows == 1:
        columns = math.ceil(math.sqrt(len(titles)))
        rows = math.ceil(len(titles) / columns)
    titles_high = 0.17 * (rows if len(pictures) == 1 else 1)
    size = (1.25 * columns, 1.25 * rows * height / width + titles_high)
    figure = Figure(figsize=size, dpi=160, layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    titled = axes.ravel() if len(pictures) == 1 else axes[0]
    for ax, title in zip(titled, titles, strict=False):
        ax.set_title(title, fontsize="x-small", pad=2)
    shown = pictures.reshape(-1, *pictures.shape[2:])
    for ax, picture in zip(axes.ravel(), shown, strict=False):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure


def level_figure(
    x: ArrayLike, xlabel: str, ylabel: str, columns: Mapping[str, Mapping[str, ArrayLike]]
) -> Figure:
    """Draw every level in a panel of its own, after one with all of them (Figs. 12-14).

    Args:
        x: What curves are drawn against, shape (T,).
        xlabel: What that is.
        ylabel: What the curves show.
        columns: Values over times by the level's name, for `largest`, drawn with `largest_std`
            as its band, `true`, dotted, and `theory`, dashed.
    """
    names = list(columns["largest"])
    rows = -(-(len(names) + 1) // _GRID_COLUMNS)
    figure = Figure(figsize=(3 * _GRID_COLUMNS, 2.4 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, _GRID_COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    colours = colormaps["viridis"](np.linspace(0, 0.93, len(names)))
    x = np.asarray(x, dtype=np.float64)
    for ax, colour, name in zip(axes[1:], colours, names, strict=False):
        mean, std = (np.asarray(columns[key][name]) for key in ("largest", "largest_std"))
        for panel in (axes[0], ax):
            panel.plot(x, mean, "o-", color=colour, markersize=2, linewidth=1.2, label="largest")
        ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        ax.plot(x, np.asarray(columns["true"][name]), ":", color=colour, label="true symbol")
        ax.plot(x, np.asarray(columns["theory"][name]), "k--", linewidth=0.9, label="mean field")
        ax.set_title(name, fontsize="small")
    axes[0].set_title("all levels", fontsize="small")
    axes[1].legend(fontsize="x-small", frameon=False, loc="lower left")
    for ax in axes[len(names) + 1 :]:
        ax.set_axis_off()
    for ax in axes[: len(names) + 1]:
        ax.set_ylim(-0.03, 1.05)
        ax.grid(alpha=0.25, linewidth=0.6)
    figure.supxlabel(xlabel, fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    return figure


def histogram_figure(
    counts: NDArray[np.integer],
    means: NDArray[np.floating],
    theory: NDArray[np.floating],
    names: Sequence[str],
    title: str,
) -> Figure:
    """Draw histograms of beliefs: a row per message, a column per level (Fig. 11).

    Args:
        counts: Of true and of other symbols in equal bins of [0, 1], (messages, levels, 2, bins).
        means: Of the beliefs in true symbols, shape (messages, levels).
        theory: Predictions of these; NaN for none.
        names: What the messages are called.
        title: What all have in common.
    """
    rows, columns, _, num_bins = counts.shape
    size = (2.5 * columns + 0.6, 2.2 * rows + 0.6)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    edges = np.linspace(0, 1, num_bins + 1)
    for ax, (row, column) in zip(axes.ravel(), np.ndindex(rows, columns), strict=True):
        for kind, (label, colour) in enumerate((("true symbol", "C0"), ("other symbols", "C7"))):
            ax.stairs(counts[row, column, kind], edges, fill=True, color=colour, alpha=0.6,
                      label=label)  # fmt: skip
        ax.axvline(float(means[row, column]), color="C3", linestyle="--", label="mean of true")
        if math.isfinite(theory[row, column]):
            ax.axvline(float(theory[row, column]), color="k", linewidth=1, label="mean field")
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


@dataclass(frozen=True)
class MapCurve:
    """One map p -> F(p).

    Attributes:
        label: Which it is.
        theory: p and F(p); empty for none.
        points: Measured p and F(p).
        fixed: Fixed points; NaN for those that there are not.
        stable: Whether each attracts.
    """

    label: str
    theory: tuple[ArrayLike, ArrayLike]
    points: tuple[ArrayLike, ArrayLike]
    fixed: NDArray[np.floating]
    stable: NDArray[np.bool_]


def map_figure(curves: Sequence[MapCurve], xlabel: str, ylabel: str) -> Figure:
    """Draw maps with their diagonal, fixed points and measured points (Fig. 10, left)."""
    figure = Figure(figsize=(5.6, 5), dpi=130, layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    for k, curve in enumerate(curves):
        colour = f"C{k}"
        ax.plot(*curve.points, "o", color=colour, markersize=3, alpha=0.35, markeredgewidth=0)
        ax.plot(*curve.theory, color=colour, linewidth=1.4)
        ax.plot([], [], color=colour, label=curve.label)
        for point, stable in zip(curve.fixed, curve.stable, strict=True):
            face = colour if stable else "white"
            ax.plot(point, point, "s", color=colour, markerfacecolor=face, markersize=7)
    ax.plot([], [], "o", color="0.4", markersize=3, alpha=0.5, label="belief propagation")
    ax.plot([], [], "s", color="0.4", label="attractive fixed point")
    ax.plot([], [], "s", color="0.4", markerfacecolor="white", label="repulsive fixed point")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend(fontsize="small", frameon=False)
    return figure


def phase_figure(
    x: ArrayLike,
    y: Sequence[float],
    values: NDArray[np.floating],
    places: Sequence[float],
    theory: Sequence[float],
    predicted: tuple[ArrayLike, ArrayLike],
    labels: tuple[str, str, str],
) -> Figure:
    """Draw a phase diagram (Figs. 6 and 10, right).

    Args:
        x: Inversion times, shape (T,).
        y: The other parameter, ascending, K of them.
        values: Probabilities, shape (K, T).
        places: Where each row is half way down; NaN where it is not.
        theory: Where the theory of rows of this size says so.
        predicted: The predicted line of infinite trees: x and y; empty for none.
        labels: Of x, y and the values.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=130, layout="constrained")
    ax = figure.subplots()
    mesh = ax.pcolormesh(np.asarray(x), y, values, shading="nearest", vmin=0, vmax=1)
    figure.colorbar(mesh, label=labels[2])
    if np.size(predicted[0]):
        ax.plot(*predicted, color="white", linewidth=1.6, label="predicted transition, L → ∞")
    if np.isfinite(theory).any():
        ax.plot(theory, y, "w--", linewidth=1, label="predicted half way down, this L")
    ax.plot(places, y, "o", color="C3", markersize=4, label="measured half way down")
    ax.axhline(1, color="white", linestyle=":", linewidth=1)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    legend = ax.legend(fontsize="small", loc="upper right", facecolor="0.35")
    for text in legend.get_texts():
        text.set_color("white")
    return figure
