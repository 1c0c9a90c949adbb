"""A convolutional network in the shape of the Random Hierarchy Model's tree."""

from itertools import pairwise
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.functional import linear

from lit_hier.errors import InputError

_DEEPEST: Final = 64  # levels; the leaves of a deeper tree cannot be indexed


class PatchConv1d(nn.Conv1d):
    """A convolution whose stride is its kernel: one matrix applied to each patch.

    Parameters and results are those of `nn.Conv1d`; on a CPU a matrix product is nearly twice as
    fast as its convolution, if the channels of a position are contiguous in memory.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (B, C_in, P), to (B, C_out, P / patch_size)."""
        patches = x.transpose(1, 2).unflatten(1, (-1, self.kernel_size[0])).flatten(2)
        weight = self.weight.transpose(1, 2).flatten(1)
        return linear(patches, weight, self.bias).transpose(1, 2)


class HierarchicalCNN(nn.Module):
    """The classifier of Section 5: one convolution of kernel and stride s per level.

    Layers are named `layers.0` (next to the input) to `layers.{L-1}`, each a convolution with
    ReLU, and `readout`, whose output is the logits.

    Args:
        num_features: v, input channels.
        num_classes: n.
        tuple_size: s.
        num_layers: L.
        width: Channels of every hidden layer.

    Attributes:
        arguments: As given, by name.

    Raises:
        InputError: `width` or `num_layers` is out of range.
    """

    paper_layers = ("layers.*", "readout")
    """Patterns of the layers that the paper analyses."""

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        tuple_size: int,
        num_layers: int,
        width: int = 128,
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"width is {width}; give at least 1")
        if not 1 <= num_layers <= _DEEPEST:
            raise InputError(f"num_layers is {num_layers}; give 1 to {_DEEPEST}")
        self.arguments: dict[str, Any] = {
            "num_features": num_features,
            "num_classes": num_classes,
            "tuple_size": tuple_size,
            "num_layers": num_layers,
            "width": width,
        }
        channels = [num_features] + num_layers * [width]
        self.layers = nn.ModuleList(
            nn.Sequential(PatchConv1d(below, above, tuple_size), nn.ReLU())
            for below, above in pairwise(channels)
        )
        self.readout = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify leaves.

        Args:
            x: Whitened one-hot leaves, shape (B, v, s**L).

        Returns:
            Logits, shape (B, n).
        """
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.readout(x.flatten(1))
        return logits
