"""Images as networks use them, in [-1, 1], and as files store them, in 256 levels."""

from typing import Final

import torch
from torch import Tensor

from lit_hier.io.devices import constant

_HALF: Final = 127.5
# A table, because division on a GPU rounds differently.
_VALUES: Final = torch.arange(256) / _HALF - 1


def from_levels(levels: Tensor) -> Tensor:
    """Convert levels, uint8, any shape, to float32 in [-1, 1]; `to_levels` inverts it.

    The result has the same bits on every device.
    """
    return constant(_VALUES, levels.device)[levels.long()]


def to_levels(x: Tensor) -> Tensor:
    """Round images in [-1, 1], any shape and floating type, to the nearest of 256 levels, uint8.

    Values outside [-1, 1] are clamped. The inverse of `from_levels` is exact, also after rounding
    to float16 or bfloat16, whose spacing is less than half of a level's.
    """
    return ((x.float().clamp(-1, 1) + 1) * _HALF).round().to(torch.uint8)


def quantise(x: Tensor) -> Tensor:
    """Round images in [-1, 1] to the 256 levels of an image file; float32."""
    return from_levels(to_levels(x))
