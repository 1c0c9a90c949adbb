"""Periodic grids and the wavenumbers of their Fourier modes."""

from typing import Final

import torch
from torch import Tensor

from lit_hier.errors import InputError

_MAX_POSITIONS: Final = 2**26  # a larger grid does not fit into most memories


def check_grid(size: int, dimensions: int) -> None:
    """Raise unless a grid has one or two dimensions and fits into memory.

    Raises:
        InputError: The size or the number of dimensions is out of range.
    """
    if dimensions not in (1, 2):
        raise InputError(f"dimensions is {dimensions}; give 1 or 2")
    if not (size >= 4 and size**dimensions <= _MAX_POSITIONS):
        raise InputError(
            f"size is {size}; give at least 4, and at most {_MAX_POSITIONS} positions in total"
        )


def wavenumber(size: int, dimensions: int) -> Tensor:
    """Return |k| of the modes of `torch.fft.rfftn`, in periods per side, float64."""
    # Rounded to exact integers: a band begins at one, and 1/size is not exact.
    full, half = (
        (f(size) * size).round().double() for f in (torch.fft.fftfreq, torch.fft.rfftfreq)
    )
    grid = torch.meshgrid(*[full] * (dimensions - 1), half, indexing="ij")
    norm: Tensor = torch.stack(grid).norm(dim=0)
    return norm
