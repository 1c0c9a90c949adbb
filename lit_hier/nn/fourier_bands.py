"""Decomposition of an image into octaves of wavenumber, as a network with one layer each."""

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.gaussian.fourier import check_grid, wavenumber


class BandPass(nn.Module):
    """Removes the Fourier modes outside a mask.

    Args:
        mask: The modes of `torch.fft.rfftn` to keep, bool, over the last axes of the input.
        shape: Positions of the input.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Filter x, shape (B, C, *shape)."""
        axes = tuple(range(-len(self.shape), 0))
        filtered: Tensor = torch.fft.irfftn(
            torch.fft.rfftn(x, dim=axes) * self.mask, s=self.shape, dim=axes
        )
        return filtered


class FourierBands(nn.Module):
    """Octaves of wavenumber, finest first; the last band contains the mean.

    Band j of n, the layer `bands.{j}`, holds the modes with 2^(n-1-j) <= |k| < 2^(n-j), in periods
    per side; the last one those with |k| < 2. There are no parameters: `ActivationSimilarity` of
    these layers measures how similar two images are at each scale.

    Args:
        size: Positions per side, at least 4.
        dimensions: 1, or 2 for images.

    Raises:
        InputError: An argument is out of range.
    """

    channels_last_layers = False
    """Bands are as their input is, even if it has as many channels as positions."""

    def __init__(self, size: int, dimensions: int = 2) -> None:
        super().__init__()
        check_grid(size, dimensions)
        self.shape = (size,) * dimensions
        k = wavenumber(size, dimensions)
        octave = k.clamp(min=1).log2().floor().long()
        masks = [octave == j for j in reversed(range(int(octave.max()) + 1))]
        self.bands = nn.ModuleList(BandPass(mask, self.shape) for mask in masks)

    def forward(self, x: Tensor) -> Tensor:
        """Decompose x, shape (B, C, *positions), into bands and return their sum.

        Raises:
            InputError: x has other positions.
        """
        if x.shape[2:] != self.shape:
            raise InputError(
                f"network: this FourierBands takes {' x '.join(map(str, self.shape))} positions,"
                f" but x has shape {tuple(x.shape)}; set size and dimensions to the data's"
            )
        parts = [band(x) for band in self.bands]
        return torch.stack(parts).sum(0)
