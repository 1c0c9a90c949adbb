"""Images as networks take them, in [-1, 1], and as files hold them, in 256 levels."""

import torch
from torch import Tensor

_HALF: float = 127.5


def from_levels(levels: Tensor) -> Tensor:
    """Turn levels, uint8, any shape, into float32 in [-1, 1]; `to_levels` gives them back."""
    return levels.float() / _HALF - 1


def to_levels(x: Tensor) -> Tensor:
    """Round images in [-1, 1], any shape and floating type, to the nearest of 256 levels, uint8.

    Values beyond are taken to the ends. What `from_levels` made comes back exactly, also after it
    was rounded to float16 or bfloat16: their steps are less than half of a level's.
    """
    return ((x.float().clamp(-1, 1) + 1) * _HALF).round().to(torch.uint8)


def quantise(x: Tensor) -> Tensor:
    """Round images in [-1, 1] to the 256 levels of a picture file; float32."""
    return from_levels(to_levels(x))
