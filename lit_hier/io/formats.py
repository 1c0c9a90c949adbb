"""Format versions of the files that runs write: integers that increase with incompatible changes.

Files from before format versions existed have none; they are read as format 1.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Final

from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write
from lit_hier.io.safe_read import read_file, read_json, reading

RUN_FORMAT: Final = 1  # a run's folder
CHECKPOINT_FORMAT: Final = 2  # format 1 names no network
SAMPLES_FORMAT: Final = 1  # a folder of kept samples
CONFIG_FILE: Final = "config.yaml"  # in a run's folder
RUN_FILE: Final = "run.json"  # in a run's folder
_MAX_SIZE: Final = 2**20  # bytes of it


def check_format(found: Any, newest: int, source: str) -> int:
    """Check that this version reads a format.

    Args:
        found: The format of a file or folder; None if it names none.
        newest: The newest format that this version reads; it reads all older ones too.
        source: The user's name for the file and its path, as in `weights: FILE`.

    Returns:
        The format.

    Raises:
        InputError: It is newer than `newest`, or is not a format version.
    """
    if found is None:
        return 1
    if type(found) is not int or found < 1:
        raise InputError(f"{source} has a damaged format version, {found!r:.60}; give another")
    if found > newest:
        known = f"format {newest}" if newest == 1 else f"formats 1 to {newest}"
        raise InputError(
            f"{source} has format {found!r:.20}, but this version of lit-hier reads {known};"
            " update lit-hier"
        )
    return found


def package_version() -> str:
    """Return this package's version, which a checkout that is not installed has too."""
    # By name, as the package's type-checking imports would make an import of it a cycle.
    return str(import_module("lit_hier").__version__)


def write_run(folder: str | PathLike[str], facts: Mapping[str, Any] | None = None) -> None:
    """Write `run.json`, by which a folder is known as that of a run.

    Args:
        folder: The folder.
        facts: What is known of the run, as JSON can hold it, besides the format and this version.

    Raises:
        OSError: It cannot be written.
    """
    record = {"format": RUN_FORMAT, "lit_hier": package_version(), **(facts or {})}
    with atomic_write(Path(folder, RUN_FILE)) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")


def check_run(folder: str | PathLike[str], argument: str) -> None:
    """Check the format version of a run's folder.

    Raises:
        InputError: It is newer than this version reads, or `run.json` is damaged.
    """
    path = Path(folder, RUN_FILE)
    found = None
    with reading(argument, path, "run it again"), suppress(FileNotFoundError):
        found = read_json(read_file(path, _MAX_SIZE), {"format": int})["format"]
    check_format(found, RUN_FORMAT, f"{argument}: {folder}")
