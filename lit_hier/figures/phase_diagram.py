"""Phase diagrams."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray


def phase_figure(
    x: ArrayLike,
    y: ArrayLike,
    values: NDArray[np.floating],
    midpoints: ArrayLike,
    theory: ArrayLike,
    predicted: tuple[ArrayLike, ArrayLike],
    labels: tuple[str, str, str],
) -> Figure:
    """Draw a phase diagram (Figs. 6 and 10, right).

    Args:
        x: Inversion times, shape (T,).
        y: The other parameter, ascending, shape (K,).
        values: Probabilities, shape (K, T).
        midpoints: Midpoint of each row's transition, shape (K,); NaN if there is none.
        theory: The same, predicted for trees of this depth, shape (K,).
        predicted: x and y of the predicted transition as L grows; empty if there is
            none.
        labels: Labels of x, y and the values.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=130, layout="constrained")
    ax = figure.subplots()
    mesh = ax.pcolormesh(np.asarray(x), np.asarray(y), values, shading="nearest", vmin=0, vmax=1)
    figure.colorbar(mesh, label=labels[2])
    if np.size(predicted[0]):
        ax.plot(*predicted, color="white", linewidth=1.6, label="predicted transition, L → ∞")
    if np.isfinite(theory).any():
        ax.plot(theory, y, "w--", linewidth=1, label="predicted midpoint, this L")
    ax.plot(midpoints, y, "o", color="C3", markersize=4, label="measured midpoint")
    ax.axhline(1, color="white", linestyle=":", linewidth=1)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    legend = ax.legend(fontsize="small", loc="upper right", facecolor="0.35")
    for text in legend.get_texts():
        text.set_color("white")
    return figure
