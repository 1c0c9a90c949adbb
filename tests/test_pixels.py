"""Conversion between levels of an image file and values in [-1, 1]."""

import pytest
import torch

from lit_hier.io.pixels import from_levels, quantise, to_levels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_level_survives_every_precision(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = from_levels(levels)
    assert x.min() == -1
    assert x.max() == 1
    assert torch.equal(to_levels(x.to(dtype)), levels)
    assert torch.equal(quantise(x.to(dtype)), x)


def test_values_are_rounded_to_the_nearest_level_and_clamped() -> None:
    assert to_levels(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert (quantise(x) - x).abs().max() <= 1 / 255 + 1e-6
