"""Arrays in files that numpy reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_hier.io.atomic import atomic_write


def write_samples(folder: str, name: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays to `{name}.npz`, for `numpy.load`.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_write(Path(folder, f"{name}.npz")) as file:
        np.savez_compressed(file, **arrays)
