"""Arrays in files that numpy reads."""

import math
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_hier.io.atomic import atomic_write
from lit_hier.io.memory import check_memory
from lit_hier.io.safe_read import open_regular, reading


def write_samples(folder: str, name: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays to `{name}.npz`, for `numpy.load`.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_write(Path(folder, f"{name}.npz")) as file:
        np.savez_compressed(file, **arrays)


def read_samples(path: str | PathLike[str], argument: str, hint: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of a `.npz` file; those of Python objects are rejected.

    Args:
        path: The file.
        argument: The user's name for it, for error messages.
        hint: What to do, for error messages.

    Returns:
        The arrays by name.

    Raises:
        InputError: The file cannot be read, is damaged, or its arrays do not fit into memory.
    """
    with reading(argument, path, hint), open_regular(path) as file:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            check_memory(total, f"{argument}: the arrays of {path}", hint)
            for member in members:
                with archive.open(member) as array:
                    _check_size(array, member.file_size)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


def _check_size(array: Any, size: int) -> None:
    """Reject a header that says more values than follow: numpy would allocate all of them."""
    version = np.lib.format.read_magic(array)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(array)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError("too short")
