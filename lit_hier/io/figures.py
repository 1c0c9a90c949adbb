"""Figures as PNG files."""

from os import PathLike
from pathlib import Path

from matplotlib.figure import Figure

from lit_hier.io.atomic import atomic_write


def write_figure(folder: str | PathLike[str], name: str, figure: Figure) -> None:
    """Write `{name}.png`."""
    with atomic_write(Path(folder, f"{name}.png")) as file:
        figure.savefig(file, format="png")
