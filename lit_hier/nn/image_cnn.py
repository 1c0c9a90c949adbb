"""A small convolutional classifier for small images."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from lit_hier.errors import InputError


class ImageCNN(nn.Module):
    """Convolutions of 3 x 3 pixels; every layer but the first halves the image's sides.

    Layers are named `layers.0` (next to the input) and so on, each a convolution with group
    normalization and ReLU, and `readout`, whose output is the logits: a linear map of the last
    layer's mean over positions. Each image is normalized on its own, so its logits do not depend
    on the rest of the batch.

    Args:
        channels: Channels of an image.
        num_classes: At least 2.
        widths: Channels of each layer.

    Attributes:
        arguments: As given, by name.

    Raises:
        InputError: An argument is out of range.
    """

    paper_layers = ("layers.*", "readout")
    """Patterns of the layers that correspond to those of the paper."""

    def __init__(
        self, channels: int, num_classes: int, widths: Sequence[int] = (32, 64, 128)
    ) -> None:
        super().__init__()
        if channels < 1:
            raise InputError(f"channels is {channels}; give at least 1")
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}; give at least 2")
        if not widths or min(widths) < 1:
            raise InputError(f"widths is {list(widths)}; give one or more, each at least 1")
        self.channels = channels
        self.arguments: dict[str, Any] = {
            "channels": channels,
            "num_classes": num_classes,
            "widths": list(widths),
        }
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below, above, 3, stride=2 if k else 1, padding=1, bias=False),
                nn.GroupNorm(1, above),
                nn.ReLU(),
            )
            for k, (below, above) in enumerate(pairwise([channels, *widths]))
        )
        self.readout = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images in [-1, 1], shape (B, channels, H, W).

        Returns:
            Logits, shape (B, num_classes).

        Raises:
            InputError: x has another shape.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(
                f"network: this ImageCNN takes images of {self.channels} channels, but x has shape"
                f" {tuple(x.shape)}; set channels to the data's"
            )
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.readout(x.mean((2, 3)))
        return logits
