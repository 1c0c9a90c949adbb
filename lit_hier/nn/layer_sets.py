"""Which layers the paper looks into, in models that others have published."""

from typing import Final

from timm import models as timm_models
from torch import nn
from torchvision import models as torchvision_models

_RESNET: Final = ("layer[1-4].*", "fc")
_PAPER: Final[dict[type[nn.Module], tuple[str, ...]]] = {
    torchvision_models.ConvNeXt: ("features.[0246]", "features.[1357].*", "classifier"),
    torchvision_models.ResNet: _RESNET,
    torchvision_models.VisionTransformer: ("encoder.layers.*", "heads"),
    timm_models.ConvNeXt: ("stem", "stages.[1-3].downsample", "stages.*.blocks.*", "head"),
    timm_models.ResNet: _RESNET,
    timm_models.VisionTransformer: ("blocks.*", "head"),
}


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
    return next((found for kind, found in _PAPER.items() if isinstance(model, kind)), ())


def channels_last(model: nn.Module) -> bool:
    """Say whether a model's blocks put out images as (B, H, W, C), as Swin transformers do."""
    kinds = (torchvision_models.SwinTransformer, timm_models.VisionTransformerSAM)
    return isinstance(model, kinds) or getattr(model, "output_fmt", "") == "NHWC"
