"""A small convolutional classifier, for small images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.nn.trained import read_trained


class ImageCNN(nn.Module):
    """Convolutions of 3 x 3 pixels, each layer but the first halving the image's sides.

    Layers are named `layers.0` (next to the input) and so on, each a convolution with
    normalisation and ReLU, and `readout`, whose output is the logits: a linear map of the last
    layer's mean over positions. Each image is normalised by itself, so that the batch, and how
    many processes share it, changes nothing.

    Args:
        channels: Of an image.
        num_classes: At least 2.
        widths: Channels of each layer.

    Raises:
        InputError: The numbers make no network.
    """

    trained_on: str = ""
    """What the weights were trained on, where they say; see `DigitsDataModule.training_set`."""

    paper_layers = ("layers.*", "readout")
    """Patterns of the layers that stand for those of the paper."""

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
        """Classify.

        Args:
            x: Images in [-1, 1], shape (B, channels, H, W).

        Returns:
            Logits, shape (B, num_classes).

        Raises:
            InputError: x is of another shape.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(
                f"network: ImageCNN is for images of {self.channels} channels, but x has shape"
                f" {tuple(x.shape)}; give its channels"
            )
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.readout(x.mean((2, 3)))
        return logits


class TrainedImageCNN(ImageCNN):
    """An `ImageCNN` with trained weights: the class to name in a config.

    Args:
        weights: Checkpoint that `lit-hier fit` wrote for an `ImageClassifier`.

    Raises:
        InputError: There is no such file, or it is no such checkpoint.
    """

    def __init__(self, weights: str) -> None:
        names = ("channels", "num_classes", "widths")
        with read_trained(weights, names, "an ImageClassifier") as trained:
            super().__init__(**trained.arguments)
            self.load_state_dict(trained.state)
        self.trained_on = trained.trained_on
