"""Images, folders of images, and the published preprocessing in integer arithmetic."""

import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from lit_hier.data import ImageFiles

RNG = np.random.default_rng(0)
_BITS = 22  # of the fixed-point weights


def noise(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution with a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    support: float,
    old: int,
    new: int,
) -> csr_array:
    """Return the integer weights of a resampling filter, shape (new, old)."""
    scale = old / new
    stretch = max(scale, 1)
    rows, columns, values = [], [], []
    for row in range(new):
        center = (row + 0.5) * scale
        first = max(int(center - support * stretch + 0.5), 0)
        last = min(int(center + support * stretch + 0.5), old)
        w = kernel((np.arange(first, last) - center + 0.5) / stretch)
        w = np.round(w / w.sum() * 2**_BITS)
        rows += [row] * len(w)
        columns += range(first, last)
        values += w.astype(int).tolist()
    return csr_array((values, (rows, columns)), shape=(new, old))


def resized(levels: NDArray[Any], kernel: Any, support: float, *new: int) -> NDArray[Any]:
    """Resample an array (H, W, C) along rows, round, resample along columns, round."""
    for axis, length in ((1, new[1]), (0, new[0])):
        if levels.shape[axis] != length:
            matrix = weights(kernel, support, levels.shape[axis], length)
            lines = np.moveaxis(levels, axis, 0)
            total = matrix @ lines.reshape(len(lines), -1).astype(int) + 2 ** (_BITS - 1)
            total = (total >> _BITS).clip(0, 255).reshape(length, *lines.shape[1:])
            levels = np.moveaxis(total, 0, axis)
    return levels


def published(levels: NDArray[Any], size: int) -> NDArray[Any]:
    """Apply the paper's preprocessing in integer arithmetic."""
    while min(levels.shape[:2]) // 2 >= size:
        levels = resized(levels, box, 0.5, levels.shape[0] // 2, levels.shape[1] // 2)
    factor = size / min(levels.shape[:2])
    height, width = (round(side * factor) for side in levels.shape[:2])
    levels = resized(levels, bicubic, 2, height, width)
    down, right = (height - size) // 2, (width - size) // 2
    return levels[down:, right:][:size, :size]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(*shape: int) -> Image.Image:
    return Image.fromarray(noise(*(shape or (20, 24, 3))))


JPEG = save(picture(), "JPEG")


def folder_of(root: Path, **files: bytes) -> ImageFiles:
    root.mkdir(exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return ImageFiles(str(root))


def idx(array: NDArray[np.uint8]) -> bytes:
    """Return an array in the file format of MNIST."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(
    root: Path, num: int = 60, names: Sequence[str] = ("MNIST",)
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write random images with labels 0 to 9 in the format of MNIST, and return them."""
    images = np.random.default_rng(0).integers(0, 256, (num, 28, 28), dtype=np.uint8)
    labels = (np.arange(num) % 10).astype(np.uint8)
    for name in names:
        folder = root / name / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("train", "t10k"):
            (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return images, labels
