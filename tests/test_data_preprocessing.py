"""Images prepared to the last bit, against integer arithmetic of our own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from lit_hier.data.preprocessing import prepare

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
    """The convolution's weights as integers, shape (new, old)."""
    scale = old / new
    stretch = max(scale, 1)
    rows, columns, values = [], [], []
    for row in range(new):
        centre = (row + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), old)
        w = kernel((np.arange(first, last) - centre + 0.5) / stretch)
        w = np.round(w / w.sum() * 2**_BITS)
        rows += [row] * len(w)
        columns += range(first, last)
        values += w.astype(int).tolist()
    return csr_array((values, (rows, columns)), shape=(new, old))


def resized(levels: NDArray[Any], kernel: Any, support: float, *new: int) -> NDArray[Any]:
    """Convolve an array (H, W, C) along its rows, round, then along its columns, and round."""
    for axis, length in ((1, new[1]), (0, new[0])):
        if levels.shape[axis] != length:
            matrix = weights(kernel, support, levels.shape[axis], length)
            lines = np.moveaxis(levels, axis, 0)
            total = matrix @ lines.reshape(len(lines), -1).astype(int) + 2 ** (_BITS - 1)
            total = (total >> _BITS).clip(0, 255).reshape(length, *lines.shape[1:])
            levels = np.moveaxis(total, 0, axis)
    return levels


def published(levels: NDArray[Any], size: int) -> NDArray[Any]:
    """The paper's preprocessing, spelled out down to the integer arithmetic."""
    while min(levels.shape[:2]) // 2 >= size:
        levels = resized(levels, box, 0.5, levels.shape[0] // 2, levels.shape[1] // 2)
    factor = size / min(levels.shape[:2])
    height, width = (round(side * factor) for side in levels.shape[:2])
    levels = resized(levels, bicubic, 2, height, width)
    down, right = (height - size) // 2, (width - size) // 2
    return levels[down:, right:][:size, :size]


@pytest.mark.parametrize("seed", range(40))
def test_preprocessing_is_that_of_the_paper_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 300, 2) if seed % 4 else rng.integers(40, 70, 2)
    channels, size = (1, 3)[seed % 2], int(rng.integers(1, 64))
    # Noise of extremes, so that the cubic's overshoot is cut off, and of all levels.
    levels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    levels = np.where(levels > 127, 255, 0).astype(np.uint8) if seed % 3 == 0 else levels
    found = prepare(levels, size, channels)
    assert np.array_equal(found.levels, published(levels, size))
    assert found.enlarged == (min(height, width) < size)
    assert not found.converted


@pytest.mark.parametrize(("height", "width"), [(2160, 3840), (500, 375), (375, 500), (512, 511)])
def test_large_pictures_at_the_papers_size(height: int, width: int) -> None:
    levels = noise(height, width, 1)
    assert np.array_equal(prepare(levels, 256, 1).levels, published(levels, 256))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_are_converted_first(mode: str, channels: int) -> None:
    wanted = {1: "L", 3: "RGB"}[channels]
    image = Image.fromarray(noise(30, 41, 3)).convert(mode)
    found = prepare(image, 16, channels)
    assert found.levels.shape == (16, 16, channels)
    assert found.converted == (mode != wanted)
    assert np.array_equal(found.levels, prepare(image.convert(wanted), 16, channels).levels)


def test_what_fits_stays_as_it_is() -> None:
    for channels, size in ((1, 28), (3, 32)):
        levels = noise(size, size, channels)
        as_tensor = torch.from_numpy(levels).movedim(-1, 0)
        for image in (levels, as_tensor, Image.fromarray(levels.squeeze())):
            found = prepare(image, size, channels)
            assert np.array_equal(found.levels, levels)
            assert (found.converted, found.enlarged) == (False, False)
    flat = noise(8, 8)
    assert np.array_equal(prepare(flat, 8, 1).levels[..., 0], flat)
    assert np.array_equal(prepare(torch.from_numpy(flat), 8, 1).levels[..., 0], flat)
