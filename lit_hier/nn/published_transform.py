"""The preprocessing of published classifiers, on batches of tensors instead of one image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import Compose, ConvertImageDtype


class PublishedTransform:
    """A classifier's own preprocessing.

    Every image is resized, cropped and normalized on its own: the result has the same bits in any
    batch. Without resizing it equals that of the library's transform of an image file; resizing
    differs from the library's by a level or two in rounding.

    Args:
        steps: Map images, uint8, shape (B, 3, H, W), to the network's input, float32.
        description: The library and every parameter; equal for equal transforms.
    """

    def __init__(self, steps: Callable[[Tensor], Tensor], description: str) -> None:
        self.steps = steps
        self.description = " ".join(description.split())

    def __call__(self, levels: Tensor) -> Tensor:
        """Transform images on their device, uint8 (B, 3, H, W) to float32 (B, 3, H', W')."""
        return self.steps(levels)

    def __repr__(self) -> str:
        """Return the description."""
        return self.description

    @classmethod
    def of_torchvision(cls, entry: Any) -> "PublishedTransform":
        """Return the transform of a weights entry; torchvision's transforms accept tensors."""
        preset = entry.transforms()
        return cls(preset, f"torchvision {preset!r}")

    @classmethod
    def of_timm(cls, model: nn.Module) -> "PublishedTransform":
        """Return a model's transform, with its PIL-only steps replaced."""
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform

        config = resolve_model_data_config(model)
        steps = map(_for_tensors, create_transform(**config, is_training=False).transforms)
        return cls(Compose(list(steps)), f"timm {config}")


def _for_tensors(step: Any) -> Any:
    from timm.data.transforms import CenterCropOrPad, MaybeToTensor

    if isinstance(step, MaybeToTensor):
        return ConvertImageDtype(torch.float32)
    return partial(_crop_or_pad, step) if isinstance(step, CenterCropOrPad) else step


def _crop_or_pad(step: Any, levels: Tensor) -> Tensor:
    """Pad each channel with its own level; torchvision pads all channels of a tensor alike."""
    from timm.data.transforms import center_crop_or_pad

    parts = zip(levels.split(1, dim=1), step.fill, strict=True)
    return torch.cat([center_crop_or_pad(part, step.size, fill) for part, fill in parts], dim=1)
