"""An image taken apart by scale, as a network whose layers can be looked into."""

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.gaussian.fourier import check_grid, wavenumber


class BandPass(nn.Module):
    """Keeps the Fourier modes of a mask.

    Args:
        mask: Modes of `torch.fft.rfftn`, bool, over the last axes of the input.
        shape: The input's positions.
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
    """Octaves of wavenumber, finest first: `bands.0` is the finest, the last one the mean's.

    Band j of n holds the modes with 2^(n-1-j) <= |k| < 2^(n-j), in periods per side; the last one
    those with |k| < 2. It learns nothing: what `ActivationSimilarity` finds in its layers is how
    alike two images are at each scale.

    Args:
        size: Positions per side, at least 4.
        dimensions: 1, or 2 as images have.

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(self, size: int, dimensions: int = 2) -> None:
        super().__init__()
        check_grid(size, dimensions)
        self.shape = (size,) * dimensions
        k = wavenumber(size, dimensions)
        octave = k.clamp(min=1).log2().floor().long()
        masks = [octave == j for j in reversed(range(int(octave.max()) + 1))]
        self.bands = nn.ModuleList(BandPass(mask, self.shape) for mask in masks)

    def forward(self, x: Tensor) -> Tensor:
        """Take x, shape (B, C, *positions), apart and put it together again.

        Raises:
            InputError: x has another number of positions.
        """
        if x.shape[2:] != self.shape:
            raise InputError(
                f"network: FourierBands is for {' x '.join(map(str, self.shape))} positions, but x"
                f" has shape {tuple(x.shape)}; give its size and dimensions"
            )
        parts = [band(x) for band in self.bands]
        return torch.stack(parts).sum(0)
