"""Images as networks take them, in [-1, 1], and as files hold them, in 256 levels."""

from typing import Final

import torch
from torch import Tensor

_HALF: Final = 127.5
# A table, as a GPU divides in another way and would give other bits.
_VALUES: Final = torch.arange(256) / _HALF - 1


def from_levels(levels: Tensor) -> Tensor:
    """Turn levels, uint8, any shape, into float32 in [-1, 1]; `to_levels` gives them back.

    The bits are the same on every device.
    """
    return _VALUES.to(levels.device)[levels.long()]


def to_levels(x: Tensor) -> Tensor:
    """Round images in [-1, 1], any shape and floating type, to the nearest of 256 levels, uint8.

    Values beyond are taken to the ends. What `from_levels` made comes back exactly, also after it
    was rounded to float16 or bfloat16: their steps are less than half of a level's.
    """
    return ((x.float().clamp(-1, 1) + 1) * _HALF).round().to(torch.uint8)


def quantise(x: Tensor) -> Tensor:
    """Round images in [-1, 1] to the 256 levels of a picture file; float32."""
    return from_levels(to_levels(x))
