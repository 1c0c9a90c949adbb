"""Reading finished runs: nothing that a run's files name is imported, built or executed."""

import re
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame

from lit_hier.errors import InputError
from lit_hier.io.arrays import read_samples
from lit_hier.io.formats import CONFIG_FILE, RUN_FILE, check_run
from lit_hier.io.safe_read import read_file, read_json, reading
from lit_hier.io.tables import read_table
from lit_hier.io.yaml_files import read_yaml
from lit_hier.results.drawing import is_drawn, table_figure

_VERSION: Final = re.compile(r"version_(\d{1,9})")
_HINT: Final = "run it again"
_MAX_PROVENANCE: Final = 2**20  # bytes


@dataclass(frozen=True)
class Run:
    """A run's results, read from its folder when they are asked for.

    Attributes:
        folder: The folder, with `config.yaml`, or `run.json` alone for a run from Python.
    """

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's config, with all defaults, as plain values; empty for a run from Python."""
        path = self.folder / CONFIG_FILE
        if not path.exists() and (self.folder / RUN_FILE).exists():
            return {}
        config = read_yaml(path, "run", _HINT)
        if not isinstance(config, dict):
            raise InputError(f"run: {path} is not a config; {_HINT}")
        return config

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the run ran on, see `lit_hier.cli.provenance`; empty for runs before it."""
        path = self.folder / RUN_FILE
        if not path.exists():
            return {}
        with reading("run", path, _HINT):
            provenance: dict[str, Any] = read_json(read_file(path, _MAX_PROVENANCE), dict)
        return provenance

    @property
    def name(self) -> str:
        """The names of the folder and of the one above it, such as `fig8/version_0`."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, in alphabetical order."""
        return self._list(".csv")

    @property
    def sample_tables(self) -> tuple[str, ...]:
        """Names of the tables of which each sample's values are known."""
        return self._list(".npz")

    def table(self, name: str) -> DataFrame:
        """Read a table, such as `similarity`: what its columns mean is said by its callback.

        Raises:
            InputError: There is no such table, or its file is damaged.
        """
        return read_table(self._find(name, ".csv", self.tables), f"table {name}", _HINT)

    def samples(self, name: str) -> dict[str, NDArray[Any]]:
        """Read each sample's values, by the name of the array, such as `similarity`.

        Raises:
            InputError: There are none of this name, their file is damaged, or they do not fit
                into memory.
        """
        return read_samples(self._find(name, ".npz", self.sample_tables), f"samples {name}", _HINT)

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the tables from which a figure can be drawn."""
        return tuple(name for name in self.tables if is_drawn(self.table(name)))

    def figure(self, name: str) -> Figure:
        """Draw a table's curves again, see `table_figure`.

        Raises:
            InputError: There is no such table, or it has no curves.
        """
        return table_figure(self.table(name))

    def _list(self, suffix: str) -> tuple[str, ...]:
        files = self.folder.glob(f"[!.]*{suffix}")
        return tuple(sorted(file.stem for file in files if file.is_file()))

    def _find(self, name: str, suffix: str, names: tuple[str, ...]) -> Path:
        if name not in names:
            raise InputError(
                f"run: {self.folder} has no {name}{suffix}; it has {', '.join(names) or 'none'}"
            )
        return self.folder / f"{name}{suffix}"


def read_run(folder: str | PathLike[str]) -> Run:
    """Open a run's folder.

    Args:
        folder: The folder of one version, such as `logs/fig8/version_0`, or the one above it: of
            its versions, the newest one with a table or, if none has one, the newest.

    Raises:
        InputError: It is not a folder of a run, or a newer version of lit-hier wrote it.
    """
    path = Path(folder)
    try:
        is_run = _is_run(path)
        runs = [Run(path)] if is_run else [Run(version) for version in _list_versions(path)]
    except (OSError, ValueError):  # a file, or a path with a null byte
        runs = []
    if not runs:
        raise InputError(
            f"run: {folder} is not the folder of a run; give one with {CONFIG_FILE}, such as"
            " logs/fig8/version_0"
        )
    run = next((run for run in runs if run.tables), runs[0])
    check_run(run.folder, "run")
    return run


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG_FILE, RUN_FILE))


def _list_versions(folder: Path) -> list[Path]:
    """List the folders of a run's versions, the newest one first."""
    numbered = {
        int(found[1]): path
        for path in folder.iterdir()
        if (found := _VERSION.fullmatch(path.name)) and _is_run(path)
    }
    return [numbered[number] for number in sorted(numbered, reverse=True)]
