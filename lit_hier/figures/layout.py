"""Layout: panels that fit the width of a figure, axes over times, legends that cover nothing."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from lit_hier.figures.style import given_width

_SCREEN_DPI: Final = 130
_PRINT_DPI: Final = 300
_BESIDE: Final = 1.6  # inches that a legend beside the panels takes
_BESIDE_FROM: Final = 6.0  # inches; the legends of narrower figures are below their panels
_DECADES: Final = (
    30.0  # the ratio of the largest to the smallest time from which they span decades
)
_CROWDED: Final = 5.0  # and largest over middle time
_FLATTER: Final = 0.8  # panels of a given width, to save height
_CHARACTER: Final = 0.55  # the width of a character in a proportional font, over its size
_LEVEL: Final = re.compile(r"level (\d+)")


def new_figure(
    num: int,
    columns: int,
    size: tuple[float, float],
    smallest: float = 2.4,
    beside: bool = True,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Create a figure with panels, of the width that `figure_style` asks for.

    Args:
        num: The number of panels.
        columns: The most panels in a row.
        size: Width and height of a panel, in inches, where no width is given; its proportions,
            where one is.
        smallest: The smallest width of a panel, in inches: there are fewer columns rather than
            narrower panels.
        beside: Whether a wide figure has a legend beside its panels.
        options: Those of `Figure.subplots`.
    """
    width, (panel_width, height) = given_width(), size
    if width is None:
        width = panel_width * columns + _BESIDE * beside
        dpi = _SCREEN_DPI
    else:
        free = width - _BESIDE * (beside and width >= _BESIDE_FROM)
        columns = max(1, min(columns, int(free / smallest)))
        height *= _FLATTER * free / columns / panel_width
        dpi = _PRINT_DPI
    rows = math.ceil(num / columns)
    figure = Figure(figsize=(width, height * rows), dpi=dpi, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for ax in axes[num:]:
        ax.set_axis_off()
    return figure, list(axes[:num])


def set_times(ax: Axes, x: ArrayLike) -> None:
    """Scale an x axis and place its ticks.

    Values that descend run from right to left, so that noise grows to the right; whole numbers,
    such as diffusion steps, have ticks at whole numbers; values that span decades, most of them
    in the lower ones, have a logarithmic axis, which is linear from 0 to the smallest one.
    """
    values = np.asarray(x, dtype=np.float64)
    positive = values[values > 0]
    if spans_decades(values):
        if len(positive) < len(values):
            ax.set_xscale("symlog", linthresh=positive.min(), linscale=0.4)
            ax.set_xlim(-0.2 * positive.min(), 1.15 * positive.max())
        else:
            ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")  # without formulas, which may be turned off
        ax.xaxis.set_minor_formatter(NullFormatter())  # else each is labeled over two decades
    elif (values == values.round()).all():
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_inverted(bool(values[0] > values[-1]))


def set_sizes(ax: Axes, x: ArrayLike) -> None:
    """Scale an x axis over numbers of data or of steps, logarithmic, with a tick at each."""
    values = np.unique(np.asarray(x, dtype=np.float64))
    ax.set_xscale("log")
    ax.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()


def spans_decades(x: ArrayLike) -> bool:
    """Tell whether values that are not negative need a logarithmic axis."""
    values = np.asarray(x, dtype=np.float64)
    positive = values[values > 0]
    if len(positive) < 3 or (values < 0).any():
        return False
    largest, middle = positive.max(), np.median(positive)
    return bool(largest >= _DECADES * positive.min() and largest >= _CROWDED * middle)


def name_ends(names: Sequence[str]) -> list[str]:
    """Shorten `level K` for a legend of levels, and say that its ends are leaves and class.

    Other names stay as they are.
    """
    found = [_LEVEL.fullmatch(name) for name in names]
    if not all(found):
        return list(names)
    numbers = [match[1] for match in found if match]
    if len(numbers) == 1:
        return ["class"]
    leaves = " (leaves)" * (numbers[0] == "0")
    return [f"{numbers[0]}{leaves}", *numbers[1:-1], f"{numbers[-1]} (class)"]


def band_handle() -> Patch:
    """Return the sample of a band that a legend shows."""
    return Patch(color="0.5", alpha=0.35, linewidth=0)


def add_legend(
    figure: Figure, entries: Mapping[str, Artist], title: str = "", beside: bool = True
) -> None:
    """Add a legend beside the panels or, in a narrow figure, below them.

    Args:
        figure: The figure.
        entries: What it shows, by label.
        title: Its title.
        beside: Whether it may be beside the panels.
    """
    width = figure.get_figwidth()
    beside = beside and width >= _BESIDE_FROM
    columns = 1
    if not beside:
        points = FontProperties(size=rcParams["legend.fontsize"]).get_size_in_points()
        longest = max(map(len, entries)) * _CHARACTER + rcParams["legend.handlelength"] + 2
        columns = max(1, min(len(entries), int(72 * width / points / longest)))
        rows = math.ceil(len(entries) / columns) + bool(title)
        figure.set_figheight(figure.get_figheight() + rows * 1.3 * points / 72)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside right center" if beside else "outside lower center",
        title=title or None,
        ncols=columns,
        frameon=False,
    )


def set_labels(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes, in several lines if the panel is too small for one."""
    figure, spec = ax.get_figure(root=True), ax.get_subplotspec()
    assert figure is not None
    assert spec is not None
    rows, columns = spec.get_gridspec().get_geometry()
    width, height = figure.get_size_inches()
    ax.set_xlabel(_wrap(xlabel, width / columns - 0.5))
    ax.set_ylabel(_wrap(ylabel, height / rows - 0.5))


def _wrap(text: str, inches: float) -> str:
    size = rcParams["axes.labelsize"]
    points = FontProperties(size=size).get_size_in_points()
    return textwrap.fill(text, max(10, int(inches * 72 / (_CHARACTER * points))))


def label_columns(axes: Sequence[Axes], xlabel: str) -> None:
    """Label the x axes that are the lowest of their columns; the axes share their ticks."""
    lowest = {}
    for ax in axes:
        spec = ax.get_subplotspec()
        assert spec is not None
        lowest[spec.colspan.start] = ax
    for ax in lowest.values():
        ax.set_xlabel(xlabel)
        ax.tick_params(labelbottom=True)


def legend_entries(axes: Sequence[Axes]) -> dict[str, Artist]:
    """Return what the legends of all panels show, each label once."""
    entries: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return entries
