"""Places of a transition by several estimators, below the curves that they come from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray


class Place(NamedTuple):
    """A place of the transition.

    Attributes:
        name: The estimator.
        place: The time; NaN if it is unknown.
        sem: Its standard error; NaN if it is unknown.
        theory: Its prediction; NaN if there is none.
    """

    name: str
    place: float
    sem: float
    theory: float


def place_figure(
    x: NDArray[np.floating],
    xlabel: str,
    curves: Mapping[str, ArrayLike],
    chi: NDArray[np.floating],
    places: Sequence[Place],
) -> Figure:
    """Draw probabilities and chi against the time, and the places below, on the same axis.

    Args:
        x: Inversion times, shape (T,).
        xlabel: Their label.
        curves: Probabilities by name, shape (T,).
        chi: Susceptibility, shape (T,).
        places: The places, from top to bottom; those that are unknown are omitted.
    """
    known = [place for place in places if np.isfinite([place.place, place.theory]).any()]
    size = (6.0, 3.4 + 0.26 * len(known))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    heights = [3.0, 0.26 * len(known) + 0.2]
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": heights})
    for k, (name, y) in enumerate(curves.items()):
        top.plot(x, np.asarray(y), "o-", color=f"C{k}", markersize=3, linewidth=1.2, label=name)
    if np.isfinite(chi).any():
        scaled = chi / np.nanmax(chi)
        label = f"χ / {np.nanmax(chi):.3g}"
        top.plot(x, scaled, "s-", color="0.5", markersize=2.5, linewidth=1, label=label)
    top.legend(fontsize="small", frameon=False)
    top.set_ylim(-0.03, 1.05)
    for row, place in enumerate(known):
        bottom.errorbar(place.place, row, xerr=np.nan_to_num(place.sem), fmt="o", color="C0",
                        markersize=4, capsize=2)  # fmt: skip
        bottom.plot(place.theory, row, "kx", markersize=6)
    bottom.plot([], [], "o", color="C0", markersize=4, label="measured")
    bottom.plot([], [], "kx", label="theory")
    bottom.set_yticks(range(len(known)), [place.name for place in known], fontsize="small")
    bottom.set_ylim(len(known) - 0.5, -0.5)
    bottom.set_xlabel(xlabel)
    bottom.legend(fontsize="small", frameon=False, loc="best")
    for ax in (top, bottom):
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure
