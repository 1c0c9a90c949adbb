"""A convolutional network in the shape of the Random Hierarchy Model's tree."""

from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn.functional import linear

from lit_hier.errors import InputError
from lit_hier.nn.trained import read_trained

_DEEPEST: Final = 64  # levels; of no deeper tree the leaves could be counted


class PatchConv1d(nn.Conv1d):
    """A convolution whose stride is its kernel: one matrix applied to each patch.

    The same parameters and numbers as `nn.Conv1d`; on a CPU a matrix product is nearly twice as
    fast as its convolution, given memory in which a position's channels lie together.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, P) to (B, C_out, P / patch_size)."""
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

    Raises:
        InputError: The numbers make no network.
    """

    trained_on: str = ""
    """What the weights were trained on, where they say; see `RHMDataModule.training_set`."""

    paper_layers = ("layers.*", "readout")
    """Patterns of the layers that the paper looks into."""

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
        channels = [num_features] + num_layers * [width]
        self.layers = nn.ModuleList(
            nn.Sequential(PatchConv1d(below, above, tuple_size), nn.ReLU())
            for below, above in pairwise(channels)
        )
        self.readout = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: Whitened one-hot leaves, shape (B, v, s**L).

        Returns:
            Logits, shape (B, n).
        """
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.readout(x.flatten(1))
        return logits


class TrainedCNN(HierarchicalCNN):
    """A `HierarchicalCNN` with trained weights: the class to name in a config.

    Args:
        weights: Checkpoint that `lit-hier fit` wrote for an `RHMClassifier`.

    Raises:
        InputError: There is no such file, or it is no such checkpoint.
    """

    def __init__(self, weights: str) -> None:
        names = ("num_features", "num_classes", "tuple_size", "num_layers", "width")
        with read_trained(weights, names, "an RHMClassifier") as trained:
            super().__init__(**trained.arguments)
            self.load_state_dict(trained.state)
        self.trained_on = trained.trained_on
