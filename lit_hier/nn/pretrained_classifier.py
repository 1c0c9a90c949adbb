"""Published image classifiers as networks that the experiment looks into."""

from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.io.pixels import to_levels
from lit_hier.nn.layer_sets import channels_last, paper_layers
from lit_hier.nn.registries import from_timm, from_torchvision

_LIBRARIES = {"torchvision": from_torchvision, "timm": from_timm}


class PretrainedClassifier(nn.Module):
    """A classifier of torchvision or timm, behind its own published transform.

    It sees what a picture file would hold: images are rounded to 256 levels, then resized, cropped
    and normalised as its authors published it. Layers go by the names that the library gives
    them, without a prefix.

    Channels are on axis 1 of an output (B, C, H, W), and on the last of one with fewer axes: the
    logits (B, classes), and the tokens (B, N, C) of a transformer, where N counts patches and
    class tokens alike. Where blocks put out (B, H, W, C), `channels_last_layers` says so; choose
    whole blocks of such models, as what is inside them may be arranged otherwise.

    Args:
        name: The library and the model in it: `torchvision/convnext_base`, or
            `timm/vit_small_patch16_224.augreg_in1k`.
        weights: `default`, those that the library's registry has for the name; the name of one of
            torchvision's entries, such as `IMAGENET1K_V2`; a file (`.pth`, `.pt`, `.safetensors`)
            of the model's state dict, of any number of classes; or `random`. The transform is
            the entry's; a file that is named as an entry's, such as `resnet50-11ad3fa6.pth`, has
            that entry's and must agree with the hash in its name, and another has the default's.

    Attributes:
        model: The network itself.
        transform: What it does to images first; its `repr` names every number.
        paper_layers: Patterns of the layers that the paper looks into; none for most models.
        channels_last_layers: Whether blocks put out (B, H, W, C).

    Raises:
        InputError: There is no such model, or no such weights, or they are another model's.
    """

    def __init__(self, name: str, weights: str = "default") -> None:
        super().__init__()
        library, _, model = name.partition("/")
        if library not in _LIBRARIES or not model:
            raise InputError(
                f"name is {name!r}; write the library before the model's name, as in"
                " torchvision/resnet50 or timm/resnet50"
            )
        published = _LIBRARIES[library](model, weights)
        self.model = published.model
        self.transform = published.transform
        self.paper_layers = paper_layers(self.model)
        self.channels_last_layers = channels_last(self.model)
        self.eval()

    @property
    def hooked(self) -> nn.Module:
        """The module whose layers patterns name."""
        return self.model

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: Images in [-1, 1], any floating type, shape (B, 3, H, W), or (B, 1, H, W) if grey.

        Returns:
            Logits, shape (B, classes).

        Raises:
            InputError: x is of another shape.
        """
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InputError(
                "network: PretrainedClassifier takes images in colour or grey, (B, 3, H, W) or"
                f" (B, 1, H, W), but x has shape {tuple(x.shape)}; take a network for such data"
            )
        levels = to_levels(x).repeat(1, 3 // x.shape[1], 1, 1)  # in one memory layout always
        dtype = next(self.model.parameters()).dtype
        logits: Tensor = self.model(self.transform(levels).to(dtype))
        return logits
