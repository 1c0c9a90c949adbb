"""Batches of images, and lossless image files that are verified by their SHA-256."""

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
class ImageBatch:
    """A batch of images for the forward-backward experiment.

    Attributes:
        x_start: Images in [-1, 1], of 256 levels, float32, shape (B, C, H, W).
        index: Sample indices, int64, shape (B,).
        label: Classes, int64, shape (B,).
        planned: Sample indices that the batch was planned with, including those of unreadable
            images; int64, shape (P,).
        names: Names of the B images, or empty.
    """

    x_start: Tensor
    index: Tensor
    label: Tensor
    planned: Tensor
    names: Sequence[str] = ()


class DamagedSampleError(InputError):
    """An image file of a finished batch is missing or damaged."""


def write_png(path: Path, levels: Any) -> str:
    """Write an image file without loss.

    Args:
        path: The file.
        levels: uint8, shape (C, H, W); C is 1, 3 or 4.

    Returns:
        The file's SHA-256, in hexadecimal digits.
    """
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    path.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def read_png(path: Path, digest: str) -> Any:
    """Read an image file that `write_png` wrote.

    Args:
        path: The file.
        digest: The SHA-256 that `write_png` returned.

    Returns:
        uint8, shape (C, H, W).

    Raises:
        DamagedSampleError: The file is missing, or its SHA-256 differs.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise DamagedSampleError(f"samples: cannot read {path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedSampleError(
            f"samples: {path} is damaged; a DDPMSampler with this folder recomputes it"
        )
    levels = np.asarray(Image.open(io.BytesIO(content)))
    return levels[None] if levels.ndim == 2 else np.moveaxis(levels, -1, 0)
