"""The style of figures: their width, fonts and colors, whatever matplotlibrc is found."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from lit_hier.errors import InputError, suggest

# Okabe and Ito's colors, which color-blind readers can tell apart; without yellow, which is pale.
CATEGORIES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Colors of what has no order."""
EXACT_LABEL: Final = "exact inference, same data"
"""The entry in the legend of what trained denoisers are compared with."""
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<")  # one more than there are colors
_BRIGHTEST: Final = 0.88  # of viridis that is still seen on white
_WIDTHS: Final = (2.0, 40.0)
_NARROW: Final = 5.0  # inches; the text of narrower figures is as small as that of captions
_SMALL: Final[dict[Any, Any]] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 8,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.0,
    "legend.labelspacing": 0.3,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.4,
}
_FILES: Final[dict[Any, Any]] = {
    "pdf.fonttype": 42,  # journals reject the default, Type 3
    "svg.hashsalt": "lit-hier",  # equal figures are equal files
}
_WIDTH: ContextVar[float | None] = ContextVar("width", default=None)


@contextmanager
def figure_style(width: float | None = None, style: str | None = None) -> Iterator[None]:
    """Draw and save figures in matplotlib's default style, wherever the program runs.

    The environment variable `MATPLOTLIBRC`, a file or a folder with `matplotlibrc`, replaces it.

    Args:
        width: The width in inches of all figures, 2 to 40: 3.3 is a column of a journal. Panels
            and legends are arranged for it; below 5 inches, text has 7 and 8 points. By default
            each figure has as many inches as it needs at 10 points.
        style: One of matplotlib's styles, or a file of one, applied on top.

    Raises:
        InputError: The width is out of range, or there is no such style.
    """
    if width is not None and not _WIDTHS[0] <= width <= _WIDTHS[1]:
        raise InputError("width is {:g}; give {:g} to {:g} inches".format(width, *_WIDTHS))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_FILES)
        if width is not None and width < _NARROW:
            matplotlib.rcParams.update(_SMALL)
        if given := os.environ.get("MATPLOTLIBRC"):
            path = Path(given, "matplotlibrc") if Path(given).is_dir() else Path(given)
            matplotlib.rcParams.update(matplotlib.rc_params_from_file(path))
        if style is not None:
            _use(style)
        token = _WIDTH.set(width)
        try:
            yield
        finally:
            _WIDTH.reset(token)


def _use(style: str) -> None:
    """Apply a style; matplotlib would download one whose name is a URL."""
    from matplotlib.style import available, use

    if style not in available and not Path(style).is_file():
        raise InputError(
            f"style: there is no style or file {style:.100}{suggest(style, available)}; give a"
            " .mplstyle file or one of matplotlib.style.available"
        )
    try:
        use(style)
    except (OSError, ValueError) as error:
        raise InputError(f"style: {style} cannot be read; give a .mplstyle file") from error


def given_width() -> float | None:
    """Return the width of `figure_style`, in inches; None if each figure has its own."""
    return _WIDTH.get()


def depth_colors(num: int) -> NDArray[np.floating]:
    """Return colors for layers or levels, from dark (shallow) to bright (deep): (num, 4)."""
    colors: NDArray[np.floating] = colormaps["viridis"](np.linspace(0, _BRIGHTEST, num))
    return colors


def category_styles(num: int) -> list[tuple[str, str]]:
    """Return a color and a marker for each of up to 56 things without an order."""
    return list(islice(zip(cycle(CATEGORIES), cycle(_MARKERS), strict=False), num))
