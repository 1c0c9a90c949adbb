r"""Networks that predict leaves from noisy ones: from beliefs in each leaf to logits of x_0.

Their input is the leaf messages of a process, :math:`\nu_\uparrow(x_0 \mid x_t)` of each leaf by
itself, shape (B, d, v); their output logits of :math:`p(x_0 \mid x_t)` given all leaves, of the
same shape. Messages say how noisy a leaf is, so that one network serves all times of a process
and needs no time. The readout is zero at first: an untrained network predicts the uniform guess,
whose loss is ln v exactly.

Source of the U-Net: Favero et al., "How compositional generalization and creativity improve as
diffusion models are trained", https://arxiv.org/abs/2502.12089.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError

_DEEPEST: Final = 64  # levels; the leaves of a deeper tree cannot be indexed


class _Patches(nn.Module):
    """Applies one linear map to each group of positions, or from each position to a group.

    Args:
        channels: Channels before and after.
        merged: Positions that are merged into one.
        split: Positions that each one is split into.
    """

    def __init__(self, channels: tuple[int, int], merged: int = 1, split: int = 1) -> None:
        super().__init__()
        below, above = channels
        self.merged, self.split = merged, split
        self.map = nn.Linear(merged * below, split * above)
        self.norm = nn.LayerNorm(above)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (B, P, C), to (B, P split / merged, C')."""
        patches = x.unflatten(1, (-1, self.merged)).flatten(2)
        mapped = self.map(patches).unflatten(2, (self.split, -1)).flatten(1, 2)
        result: Tensor = self.activation(self.norm(mapped))
        return result


class TreeUNet(nn.Module):
    """A U-Net in the shape of the tree: one convolution of kernel and stride s per level.

    Each level up is a convolution, each level down a transposed one, followed by a 1x1
    convolution of it beside what went up; all with LayerNorm and GELU. The embedding and the
    readout are 1x1 convolutions. Layers are named `up.0` (next to the leaves) to `up.{L-1}`, and
    `down.0` and `merge.0` (next to the root) to `down.{L-1}` and `merge.{L-1}`.

    Args:
        num_features: v.
        tuple_size: s.
        num_layers: L.
        width: Channels of every hidden layer.

    Attributes:
        arguments: As given, by name.

    Raises:
        InputError: `width` or `num_layers` is out of range.
    """

    def __init__(
        self, num_features: int, tuple_size: int, num_layers: int, width: int = 64
    ) -> None:
        super().__init__()
        check_sizes(width, num_layers)
        self.arguments: dict[str, Any] = {
            "num_features": num_features,
            "tuple_size": tuple_size,
            "num_layers": num_layers,
            "width": width,
        }
        self.embedding = nn.Linear(num_features, width)
        self.up = nn.ModuleList(
            _Patches((width, width), merged=tuple_size) for _ in range(num_layers)
        )
        self.down = nn.ModuleList(
            _Patches((width, width), split=tuple_size) for _ in range(num_layers)
        )
        self.merge = nn.ModuleList(_Patches((2 * width, width)) for _ in range(num_layers))
        self.readout = _zero_readout(width, num_features)

    def forward(self, messages: Tensor) -> Tensor:
        """Predict leaves.

        Args:
            messages: Beliefs in leaves, normalized over symbols, shape (B, s**L, v).

        Returns:
            Logits, shape (B, s**L, v).
        """
        x = self.embedding(_center(messages))
        skips = []
        for layer in self.up:
            skips.append(x)
            x = layer(x)
        for layer, merge in zip(self.down, self.merge, strict=True):
            x = merge(torch.cat((layer(x), skips.pop()), dim=-1))
        logits: Tensor = self.readout(x)
        return logits


class LeafEncoder(nn.Module):
    """The layers of a transformer over the leaves, with a learned position for each.

    The tree is not built in. Layers are named `layers.0` to `layers.{depth-1}`, and
    `layers.{depth}`, the last LayerNorm.

    Args:
        num_features: v.
        num_leaves: d.
        width: Channels, a multiple of `heads`.
        heads: Heads of attention.
        depth: Number of transformer layers.

    Raises:
        InputError: `width`, `heads` or `depth` is out of range.
    """

    def __init__(
        self, num_features: int, num_leaves: int, width: int, heads: int, depth: int
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"heads is {heads}; give a divisor of width = {width}")
        if not 1 <= depth <= _DEEPEST:
            raise InputError(f"depth is {depth}; give 1 to {_DEEPEST}")
        self.embedding = nn.Linear(num_features, width)
        self.positions = nn.Parameter(torch.zeros(num_leaves, width))
        nn.init.normal_(self.positions)
        layers = [
            nn.TransformerEncoderLayer(
                width,
                heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*layers, nn.LayerNorm(width))

    def encode(self, leaves: Tensor) -> Tensor:
        """Map whitened leaves, shape (B, d, v), to features, shape (B, d, width)."""
        encoded: Tensor = self.layers(self.embedding(leaves) + self.positions)
        return encoded


class LeafTransformer(LeafEncoder):
    """A transformer over the leaves that predicts them: see `LeafEncoder`.

    Args:
        num_features: v.
        tuple_size: s.
        num_layers: L, of the tree.
        width: Channels, a multiple of `heads`.
        heads: Heads of attention.
        depth: Number of transformer layers.

    Attributes:
        arguments: As given, by name.

    Raises:
        InputError: `width`, `heads`, `depth` or `num_layers` is out of range.
    """

    def __init__(
        self,
        num_features: int,
        tuple_size: int,
        num_layers: int,
        width: int = 64,
        heads: int = 4,
        depth: int = 4,
    ) -> None:
        check_sizes(width, num_layers)
        super().__init__(num_features, tuple_size**num_layers, width, heads, depth)
        self.arguments: dict[str, Any] = {
            "num_features": num_features,
            "tuple_size": tuple_size,
            "num_layers": num_layers,
            "width": width,
            "heads": heads,
            "depth": depth,
        }
        self.readout = _zero_readout(width, num_features)

    def forward(self, messages: Tensor) -> Tensor:
        """Predict leaves.

        Args:
            messages: Beliefs in leaves, normalized over symbols, shape (B, s**L, v).

        Returns:
            Logits, shape (B, s**L, v).
        """
        logits: Tensor = self.readout(self.encode(_center(messages)))
        return logits


def check_sizes(width: int, num_layers: int) -> None:
    """Reject a network without channels, or of an impossible tree."""
    if width < 1:
        raise InputError(f"width is {width}; give at least 1")
    if not 1 <= num_layers <= _DEEPEST:
        raise InputError(f"num_layers is {num_layers}; give 1 to {_DEEPEST}")


def _center(messages: Tensor) -> Tensor:
    """Scale beliefs so that no information is 0 and a one-hot belief has squared norm near v."""
    num_features = messages.shape[-1]
    return (messages - 1 / num_features) * math.sqrt(num_features)


def _zero_readout(width: int, num_features: int) -> nn.Linear:
    readout = nn.Linear(width, num_features)
    nn.init.zeros_(readout.weight)
    nn.init.zeros_(readout.bias)
    return readout
