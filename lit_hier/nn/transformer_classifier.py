"""A transformer that classifies data of the Random Hierarchy Model."""

from typing import Any

from torch import Tensor, nn

from lit_hier.nn.denoisers import LeafEncoder, check_sizes


class TransformerClassifier(LeafEncoder):
    """A transformer over the leaves, whose mean over leaves is classified: see `LeafEncoder`.

    Layers are those of `LeafEncoder`, and `readout`, whose output is the logits.

    Args:
        num_features: v, input channels.
        num_classes: n.
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

    paper_layers = ("layers.*", "readout")
    """Patterns of the layers that analyses take by default."""
    channels_last_layers = True
    """Whether layers return (B, d, C)."""

    def __init__(
        self,
        num_features: int,
        num_classes: int,
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
            "num_classes": num_classes,
            "tuple_size": tuple_size,
            "num_layers": num_layers,
            "width": width,
            "heads": heads,
            "depth": depth,
        }
        self.readout = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify leaves.

        Args:
            x: Whitened one-hot leaves, shape (B, v, s**L).

        Returns:
            Logits, shape (B, n).
        """
        logits: Tensor = self.readout(self.encode(x.transpose(1, 2)).mean(1))
        return logits
