"""Phase diagrams."""

from typing import Final

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import ArrayLike, NDArray

from lit_hier.figures.layout import add_legend, legend_entries, new_figure
from lit_hier.figures.style import CATEGORIES

_EMPTY: Final = "0.88"


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

    Each row of values is a band around its own y, as high as the distance to the nearest other row
    allows; what is not measured stays gray.

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
    figure, (ax,) = new_figure(1, 1, (6.2, 4.8), beside=False)
    size, width = rcParams["lines.markersize"], rcParams["lines.linewidth"]
    y = np.asarray(y, dtype=np.float64)
    edges = _edges(np.asarray(x, dtype=np.float64))
    bands = _bands(y)
    for row, (low, high) in zip(values, bands, strict=True):
        mesh = ax.pcolormesh(edges, [low, high], row[None], vmin=0, vmax=1)
    figure.colorbar(mesh, ax=ax, label=labels[2])
    outline = [Stroke(linewidth=1.9 * width, foreground="k"), Normal()]
    if np.size(predicted[0]):
        ax.plot(*predicted, color="white", path_effects=outline,
                label="predicted transition, L → ∞")  # fmt: skip
    if np.isfinite(theory).any():
        ax.plot(theory, y, "k--", linewidth=0.8 * width, label="predicted midpoint, this L")
    ax.plot(midpoints, y, "o", color=CATEGORIES[1], markersize=0.8 * size, markeredgecolor="white",
            markeredgewidth=0.4 * width, label="measured midpoint")  # fmt: skip
    ax.axhline(1, color="0.35", linestyle=":", linewidth=0.8 * width, label="s f = 1")
    ax.set(xlabel=labels[0], ylabel=labels[1], xlim=edges[[0, -1]], facecolor=_EMPTY)
    entries = legend_entries([ax])
    if (bands[1:, 0] > bands[:-1, 1] + 1e-9).any():
        entries["not measured"] = Patch(color=_EMPTY)
    add_legend(figure, entries, beside=False)
    return figure


def _edges(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the edges of cells around centers: half way between these."""
    between = (x[1:] + x[:-1]) / 2
    return np.concatenate(([x[0]], between, [x[-1]]))


def _bands(y: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the lower and upper ends of bands that are centered and do not overlap: (K, 2)."""
    gaps = np.diff(y, prepend=-np.inf, append=np.inf)
    half = np.minimum(gaps[1:], gaps[:-1]) / 2
    return np.stack((y - half, y + half), axis=-1)
