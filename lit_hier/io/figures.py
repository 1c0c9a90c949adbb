"""Figures as files."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

from matplotlib.figure import Figure

from lit_hier.io.atomic import atomic_write

FigureFormat = Literal["png", "pdf", "svg"]
"""A format of figures, named as its files end."""
NO_DATE: Final[dict[str, dict[str, Any]]] = {
    "png": {},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}


def write_figure(
    folder: str | PathLike[str],
    name: str,
    figure: Figure,
    formats: Iterable[FigureFormat] = ("png",),
) -> None:
    """Write `{name}.{format}` in each of the formats; equal figures are equal files."""
    for file_format in dict.fromkeys(formats):
        with atomic_write(Path(folder, f"{name}.{file_format}")) as file:
            figure.savefig(file, format=file_format, **NO_DATE[file_format])
