"""Batches of images, and lossless image files that are verified by their SHA-256."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write
from lit_hier.io.safe_read import read_file

MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
"""Modes of image files by their number of channels."""


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images for the forward-backward experiment.

    Attributes:
        x_start: Images in [-1, 1], of 256 levels, float32, shape (B, C, H, W).
        index: Sample indices, int64, shape (B,), on the CPU.
        label: Classes, int64, shape (B,), on the CPU.
        planned: Sample indices that the batch was planned with, including those of unreadable
            images; int64, shape (P,), on the CPU.
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
    """Write an image file without loss; a link at its place is replaced, not followed.

    It is not forced onto the disk: after a loss of power, its SHA-256 may differ.

    Args:
        path: The file.
        levels: uint8, shape (C, H, W); C is 1, 3 or 4.

    Returns:
        The file's SHA-256, in hexadecimal digits.
    """
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    with atomic_write(path, durable=False) as file:
        file.write(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def read_png(path: Path, digest: str, shape: Sequence[int]) -> Any:
    """Read an image file that `write_png` wrote.

    Args:
        path: The file; a link is not followed.
        digest: The SHA-256 that `write_png` returned.
        shape: The shape of its levels, (C, H, W).

    Returns:
        uint8, shape (C, H, W).

    Raises:
        DamagedSampleError: The file is missing, its SHA-256 differs, or it is not a PNG file.
        InputError: It has another size or mode.
    """
    channels, height, width = shape
    limit = 2 * channels * height * width + 2**16  # incompressible levels take a little more
    try:
        content = read_file(path, limit, follow=False)
    except OSError as error:
        raise DamagedSampleError(f"samples: cannot read {path}: {error.strerror}") from error
    damaged = f"samples: {path} is damaged; a DDPMSampler with this folder recomputes it"
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedSampleError(damaged)
    try:
        # Other formats, which PIL reads by default, run programs or decode to any size.
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        if (image.size, image.mode) != ((width, height), MODES.get(channels)):
            raise InputError(
                f"samples: {path} is of {image.width} x {image.height} pixels, mode {image.mode}:"
                " samples of other images; give the data module the arguments of the run that"
                " filled it, or another folder"
            )
        levels = np.asarray(image)
    except InputError:
        raise
    except Exception as error:  # PIL raises errors of many types
        raise DamagedSampleError(damaged) from error
    return levels[None] if levels.ndim == 2 else np.moveaxis(levels, -1, 0)
