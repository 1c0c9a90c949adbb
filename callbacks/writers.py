"""Per-sample values of an analysis, in compressed binary files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from lit_hier.io.atomic import atomic_write

_PIECE: Final = 2**18  # bytes written at a time


def write_samples(folder: str, name: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays to `{name}.npz`, for `numpy.load`.

    As `numpy.savez_compressed` does, but in small pieces: it takes no memory to speak of.
    """
    with (
        atomic_write(Path(folder, f"{name}.npz")) as file,
        ZipFile(file, "w", ZIP_DEFLATED) as archive,
    ):
        for key, given in arrays.items():
            array = np.asarray(given, order="C")
            with archive.open(f"{key}.npy", "w", force_zip64=True) as part:
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(part, header)
                content = array.reshape(-1).view(np.uint8)
                for start in range(0, len(content), _PIECE):
                    part.write(content[start : start + _PIECE].data)
