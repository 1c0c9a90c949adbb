"""Published image classifiers with their preprocessing and layer names."""

from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.io.pixels import to_levels
from lit_hier.nn.layers import channels_last, paper_layers
from lit_hier.nn.registries import from_timm, from_torchvision

_LIBRARIES = {"torchvision": from_torchvision, "timm": from_timm}


class PretrainedClassifier(nn.Module):
    """A classifier of torchvision or timm, preceded by its published transform.

    Images are rounded to 256 levels, as in an image file, then resized, cropped and normalized as
    the authors of the weights published it. Layer names are the library's, without a prefix.

    Channels are on axis 1 of an output (B, C, H, W), and on the last axis of one with fewer axes:
    the logits (B, classes), and the tokens (B, N, C) of a transformer, where N counts patches and
    class tokens alike. `channels_last_layers` is true if blocks return (B, H, W, C); choose whole
    blocks of such models, as layers inside them may have another layout.

    Args:
        name: The library and the model in it: `torchvision/convnext_base`, or
            `timm/vit_small_patch16_224.augreg_in1k`.
        weights: `default`, the library's default for the name; one of torchvision's entries, such
            as `IMAGENET1K_V2`; a file (`.pth`, `.pt`, `.safetensors`) with the model's state dict,
            for any number of classes; or `random`. The transform is that of the entry; for a file
            with the name of an entry's file, such as `resnet50-11ad3fa6.pth`, that of the entry,
            and its content must match the hash in the name; for other files the default's.
        class_offset: Number of logits before that of the first class, such as 1 for a background
            class; they are left out.

    Attributes:
        model: The network itself.
        transform: The preprocessing; its `repr` contains every parameter.
        paper_layers: Patterns of the layers that the paper analyses; empty for most models.
        channels_last_layers: True if blocks are known to return (B, H, W, C), else None.

    Raises:
        InputError: The model or the weights do not exist, or do not fit each other.
    """

    def __init__(self, name: str, weights: str = "default", class_offset: int = 0) -> None:
        super().__init__()
        if class_offset < 0:
            raise InputError(f"class_offset is {class_offset}; give at least 0")
        library, _, model = name.partition("/")
        if library not in _LIBRARIES or not model:
            raise InputError(
                f"name is {name!r}; write the library before the model's name, as in"
                " torchvision/resnet50 or timm/resnet50"
            )
        published = _LIBRARIES[library](model, weights)
        self.model = published.model
        self.transform = published.transform
        self.class_offset = class_offset
        self.paper_layers = paper_layers(self.model)
        self.channels_last_layers = channels_last(self.model) or None
        self.eval()

    @property
    def hooked(self) -> nn.Module:
        """The module that layer patterns refer to."""
        return self.model

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images in [-1, 1], any floating type, shape (B, 3, H, W), or gray (B, 1, H, W).

        Returns:
            Logits, shape (B, classes).

        Raises:
            InputError: x has another shape.
        """
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InputError(
                "network: PretrainedClassifier takes color or gray images, (B, 3, H, W) or"
                f" (B, 1, H, W), but x has shape {tuple(x.shape)}; choose a network for such data"
            )
        levels = to_levels(x).repeat(1, 3 // x.shape[1], 1, 1)  # always in one memory layout
        dtype = next(self.model.parameters()).dtype
        logits: Tensor = self.model(self.transform(levels).to(dtype))
        if self.class_offset >= logits.shape[-1]:
            raise InputError(
                f"class_offset is {self.class_offset}, but the network has {logits.shape[-1]}"
                " logits; give less"
            )
        return logits[:, self.class_offset :] if self.class_offset else logits
