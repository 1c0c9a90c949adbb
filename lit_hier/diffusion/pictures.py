"""Images that are turned round, and the pictures that are kept of them, told apart by SHA-256."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file


@dataclass(frozen=True)
class Images:
    """A batch of images that are turned round.

    Attributes:
        x_start: In [-1, 1], of 256 levels, float32, shape (B, C, H, W).
        index: Sample indices, int64, shape (B,).
        label: Classes, int64, shape (B,).
        planned: The sample indices that the batch was to have, with those that cannot be read;
            int64, shape (P,).
        names: What the images are called, if they are; B of them, or none.
    """

    x_start: Tensor
    index: Tensor
    label: Tensor
    planned: Tensor
    names: Sequence[str] = ()


class DamagedSampleError(InputError):
    """A picture of a finished batch is missing, or is not as it was written."""


def write_picture(path: Path, levels: Any) -> str:
    """Write a picture without loss.

    Args:
        path: Where.
        levels: uint8, shape (C, H, W).

    Returns:
        The file's SHA-256, in hexadecimal digits.
    """
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    path.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def read_picture(path: Path, digest: str) -> Any:
    """Read a picture, if it is the one that was written.

    Args:
        path: Where.
        digest: What `write_picture` gave.

    Returns:
        uint8, shape (C, H, W).

    Raises:
        DamagedSampleError: It is not.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise DamagedSampleError(f"samples: cannot read {path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedSampleError(
            f"samples: {path} is damaged; a DDPMSampler with this folder makes it anew"
        )
    levels = np.asarray(Image.open(io.BytesIO(content)))
    return levels[None] if levels.ndim == 2 else np.moveaxis(levels, -1, 0)
