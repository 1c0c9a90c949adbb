"""Preprocessing of images against the published algorithm in integer arithmetic."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from images import noise, published
from PIL import Image

from lit_hier.data import preprocessing
from lit_hier.data.preprocessing import prepare


@pytest.mark.parametrize("seed", range(40))
def test_preprocessing_returns_the_bits_of_the_published_algorithm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 300, 2) if seed % 4 else rng.integers(40, 70, 2)
    channels, size = (1, 3)[seed % 2], int(rng.integers(1, 64))
    # Extreme levels too, so that the overshoot of the bicubic filter is clipped.
    levels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    levels = np.where(levels > 127, 255, 0).astype(np.uint8) if seed % 3 == 0 else levels
    found = prepare(levels, size, channels)
    assert np.array_equal(found.levels, published(levels, size))
    assert found.enlarged == (min(height, width) < size)
    assert not found.converted


@pytest.mark.parametrize(("height", "width"), [(2160, 3840), (500, 375), (375, 500), (512, 511)])
def test_the_same_holds_for_photographs_at_the_papers_size(height: int, width: int) -> None:
    levels = noise(height, width, 1)
    assert np.array_equal(prepare(levels, 256, 1).levels, published(levels, 256))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_are_converted_before_scaling(mode: str, channels: int) -> None:
    wanted = {1: "L", 3: "RGB"}[channels]
    image = Image.fromarray(noise(30, 41, 3)).convert(mode)
    found = prepare(image, 16, channels)
    assert found.levels.shape == (16, 16, channels)
    assert found.converted == (mode != wanted)
    assert np.array_equal(found.levels, prepare(image.convert(wanted), 16, channels).levels)


def test_an_image_of_the_target_size_and_mode_is_unchanged() -> None:
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


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (2, 3001), (70_000, 3)])
def test_narrow_images_take_little_memory_and_keep_their_bits(shape: tuple[int, int]) -> None:
    """Only the central square is kept; here, of strips of a few lines."""
    levels, size = noise(*shape, 3), 16
    with patch.object(preprocessing, "_STRIP", 2**12):
        found = prepare(levels, size, 3).levels
    scale = size / min(shape)
    height, width = (round(side * scale) for side in shape)
    image = Image.fromarray(levels).resize((width, shape[0]), Image.Resampling.BICUBIC)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    assert np.array_equal(found, np.array(image)[top : top + size, left : left + size])


def test_an_image_that_is_too_narrow_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^it is too narrow: once scaled, it has 5120000 x 256"):
        prepare(noise(1, 20_000, 1), 256, 1)
