"""Fourier modes of real data on a periodic grid."""

import torch
from torch import Tensor

from lit_hier.errors import InputError

_MOST = 2**26  # positions of a grid


def check_grid(size: int, dimensions: int) -> None:
    """Refuse grids that there are not, or that would not fit into memory.

    Raises:
        InputError: The size or the number of dimensions is out of range.
    """
    if dimensions not in (1, 2):
        raise InputError(f"dimensions is {dimensions}; give 1 or 2")
    if not (size >= 4 and size**dimensions <= _MOST):
        raise InputError(f"size is {size}; give at least 4, and at most {_MOST} positions in all")


def wavenumber(size: int, dimensions: int) -> Tensor:
    """Give |k| of the modes of `torch.fft.rfftn`, in periods per side, float64."""
    # Whole numbers, whatever a size's reciprocal is rounded to: bands begin at them.
    full, half = (
        (f(size) * size).round().double() for f in (torch.fft.fftfreq, torch.fft.rfftfreq)
    )
    grid = torch.meshgrid(*[full] * (dimensions - 1), half, indexing="ij")
    norm: Tensor = torch.stack(grid).norm(dim=0)
    return norm
