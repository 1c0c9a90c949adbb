"""Grids of images."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_hier.figures.style import given_width

_WIDTH: Final = 1.25  # inches of an image, where no width is given
_UPRIGHT: Final = 0.07  # inches that a character of a title needs


def grid_figure(images: NDArray[np.uint8], titles: Sequence[str]) -> Figure:
    """Draw images in a grid (Fig. 2, left); a single row is split into several (Fig. 1).

    Args:
        images: Shape (rows, columns, H, W, C); C is 1 or 3.
        titles: One per column; upright where they are wider than images.
    """
    rows, columns, height, width, _ = images.shape
    if rows == 1:
        columns = math.ceil(math.sqrt(len(titles)))
        rows = math.ceil(len(titles) / columns)
    given = given_width()
    side = _WIDTH if given is None else given / columns
    longest = _UPRIGHT * max(map(len, titles))
    upright = longest > side
    title_height = (longest if upright else 0.17) * (rows if len(images) == 1 else 1)
    size = (side * columns, side * rows * height / width + title_height)
    dpi = 160 if given is None else 300
    figure = Figure(figsize=size, dpi=dpi, layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    titled = axes.ravel() if len(images) == 1 else axes[0]
    for ax, title in zip(titled, titles, strict=False):
        ax.set_title(title, fontsize="x-small", pad=2, rotation=90 if upright else 0)
    shown = images.reshape(-1, *images.shape[2:])
    for ax, image in zip(axes.ravel(), shown, strict=False):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure
