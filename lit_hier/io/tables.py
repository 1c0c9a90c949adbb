"""Tidy tables as CSV files."""

from io import BytesIO
from os import PathLike
from pathlib import Path

from pandas import DataFrame, read_csv

from lit_hier.io.atomic import atomic_write
from lit_hier.io.safe_read import read_file, reading


def write_table(folder: str | PathLike[str], name: str, table: DataFrame) -> None:
    """Write `{name}.csv`: floats with all their digits, whole numbers as such, NaN as `nan`."""
    with atomic_write(Path(folder, f"{name}.csv")) as file:
        file.write(table.to_csv(index=False, na_rep="nan", lineterminator="\n").encode())


def read_table(path: str | PathLike[str], argument: str, hint: str) -> DataFrame:
    """Read what `write_table` wrote.

    Args:
        path: The file, of at most 256 MiB.
        argument: The user's name for it, for error messages.
        hint: What to do, for error messages.

    Raises:
        InputError: The file cannot be read, or is damaged.
    """
    with reading(argument, path, hint):
        content = BytesIO(read_file(path))
        return read_csv(content, keep_default_na=False, na_values=["nan"])
