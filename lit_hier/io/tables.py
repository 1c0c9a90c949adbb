"""Tidy tables as CSV files."""

from os import PathLike
from pathlib import Path

from pandas import DataFrame

from lit_hier.io.atomic import atomic_write


def write_table(folder: str | PathLike[str], name: str, table: DataFrame) -> None:
    """Write `{name}.csv`: floats with all their digits, whole numbers as such, NaN as `nan`."""
    with atomic_write(Path(folder, f"{name}.csv")) as file:
        file.write(table.to_csv(index=False, na_rep="nan", lineterminator="\n").encode())
