"""Grids of images."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def grid_figure(images: NDArray[np.uint8], titles: Sequence[str]) -> Figure:
    """Draw images in a grid (Fig. 2, left); a single row is split into several (Fig. 1).

    Args:
        images: Shape (rows, columns, H, W, C); C is 1 or 3.
        titles: One per column.
    """
    rows, columns, height, width, _ = images.shape
    if rows == 1:
        columns = math.ceil(math.sqrt(len(titles)))
        rows = math.ceil(len(titles) / columns)
    title_height = 0.17 * (rows if len(images) == 1 else 1)
    size = (1.25 * columns, 1.25 * rows * height / width + title_height)
    figure = Figure(figsize=size, dpi=160, layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    titled = axes.ravel() if len(images) == 1 else axes[0]
    for ax, title in zip(titled, titles, strict=False):
        ax.set_title(title, fontsize="x-small", pad=2)
    shown = images.reshape(-1, *images.shape[2:])
    for ax, image in zip(axes.ravel(), shown, strict=False):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure
