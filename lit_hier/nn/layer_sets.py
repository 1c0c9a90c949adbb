"""Which layers the paper looks into, in models that others have published."""

from typing import Final

from torch import nn

_RESNET: Final = ("layer[1-4].*", "fc")
# By library and class; a name needs no import, which of timm takes a second.
_PAPER: Final[dict[str, tuple[str, ...]]] = {
    "torchvision.ConvNeXt": ("features.[0246]", "features.[1357].*", "classifier"),
    "torchvision.ResNet": _RESNET,
    "torchvision.VisionTransformer": ("encoder.layers.*", "heads"),
    "timm.ConvNeXt": ("stem", "stages.[1-3].downsample", "stages.*.blocks.*", "head"),
    "timm.ResNet": _RESNET,
    "timm.VisionTransformer": ("blocks.*", "head"),
}
_CHANNELS_LAST: Final = {"torchvision.SwinTransformer", "timm.VisionTransformerSAM"}


def paper_layers(model: nn.Module) -> tuple[str, ...]:
    """Give patterns of the layers that the paper looks into, for `match_layers`.

    ConvNeXt (Fig. 2): the stem, every block and every downsampling, 41 in ConvNeXt Base with the
    logits. ResNets (Fig. 16, Appendix D): every block, whose output is behind its last ReLU, and
    the logits: 17 in ResNet-50 and Wide ResNet-50-2, 51 in ResNet-152. Vision transformers, which
    the paper does not have: every block, and the logits.

    Args:
        model: Of torchvision or timm.

    Returns:
        Patterns; none for other models.
    """
    return next((_PAPER[kind] for kind in _kinds(model) if kind in _PAPER), ())


def channels_last(model: nn.Module) -> bool:
    """Say whether a model's blocks put out images as (B, H, W, C), as Swin transformers do."""
    known = not _CHANNELS_LAST.isdisjoint(_kinds(model))
    return known or getattr(model, "output_fmt", "") == "NHWC"


def _kinds(model: nn.Module) -> list[str]:
    """Name the class of a model, and those that it is derived from, by their libraries."""
    kinds = type(model).__mro__
    return [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in kinds]
