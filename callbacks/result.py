"""What a run has measured, in memory: tables, samples and figures by name."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning.loggers import Logger

from lit_hier.callbacks.tensorboard import log_figure
from lit_hier.errors import InputError, one_line, suggest
from lit_hier.figures import figure_style
from lit_hier.io.figures import FigureFormat, write_figure

_LOG: Final = logging.getLogger("lit_hier")
_T = TypeVar("_T")


class Result:
    """Tables, samples and figures of a run; a finished run's folder has the same as files.

    `lit_hier.results.read_run` reads such a folder, with the same methods.
    """

    def __init__(self) -> None:
        self._tables: dict[str, DataFrame] = {}
        self._samples: dict[str, dict[str, NDArray[Any]]] = {}
        self._figures: dict[str, Figure] = {}

    @classmethod
    def merge(cls, results: Iterable["Result"]) -> "Result":
        """Return the contents of several results as one; names must differ."""
        merged = cls()
        for result in results:
            merged._tables |= result._tables
            merged._samples |= result._samples
            merged._figures |= result._figures
        return merged

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, in alphabetical order."""
        return tuple(sorted(self._tables))

    @property
    def sample_tables(self) -> tuple[str, ...]:
        """Names of the tables of which each sample's values are known."""
        return tuple(sorted(self._samples))

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures, in alphabetical order."""
        return tuple(sorted(self._figures))

    def table(self, name: str) -> DataFrame:
        """Return a table, such as `reconstruction`; its callback says what its columns mean.

        Raises:
            InputError: There is no such table.
        """
        return _find(self._tables, name, "table")

    def samples(self, name: str) -> dict[str, NDArray[Any]]:
        """Return each sample's values, by the name of the array, such as `marginal`.

        Raises:
            InputError: There are none of this name.
        """
        return _find(self._samples, name, "table of samples")

    def figure(self, name: str) -> Figure:
        """Return a figure; `figure.savefig("x.pdf")` saves it.

        Raises:
            InputError: There is no such figure.
        """
        return _find(self._figures, name, "figure")

    def add_table(self, name: str, table: DataFrame) -> None:
        """Add a table."""
        self._tables[name] = table

    def add_samples(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add each sample's values."""
        self._samples[name] = dict(arrays)

    def add_figure(self, name: str, figure: Figure) -> None:
        """Add a figure."""
        self._figures[name] = figure


def _find(known: Mapping[str, _T], name: str, kind: str) -> _T:
    if name not in known:
        raise InputError(
            f"result: there is no {kind} {name:.60}{suggest(name, known)}; there is"
            f" {', '.join(sorted(known)) or 'none'}"
        )
    return known[name]


def draw_figures(
    name: str,
    draw: Callable[[], Mapping[str, Figure]],
    result: Result,
    folder: str | None,
    figure_format: FigureFormat,
    loggers: Sequence[Logger],
) -> None:
    """Draw, save and log figures; one that cannot be drawn or saved is a warning in the log.

    Args:
        name: What is drawn, for the warning.
        draw: Returns the figures, by the name of their file.
        result: To which they are added.
        folder: Where they are written as PNG and in `figure_format`; None for a run without files.
        figure_format: A further format.
        loggers: The run's loggers.
    """
    try:
        with figure_style():
            for file, figure in draw().items():
                result.add_figure(file, figure)
                if folder is not None:
                    write_figure(folder, file, figure, ("png", figure_format))
                log_figure(loggers, file, figure)
    except Exception as error:  # matplotlib raises errors of many types
        reason = one_line(error)[:200] or type(error).__name__
        _LOG.warning("figure: cannot draw %s: %s; its tables are complete", name, reason)
