"""What published classifiers do to an image first, on batches of levels instead of one picture."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import Compose, ConvertImageDtype


class PublishedTransform:
    """A classifier's own preprocessing.

    Every image is resized, cropped and normalised on its own: what becomes of it has the same
    bits in any batch. On the same levels the library's transform of a picture file gives the same
    numbers where nothing is resized; its resizing differs by a level or two in rounding.

    Args:
        steps: Take images, uint8, shape (B, 3, H, W), and give the network's input, float32.
        description: Names the library and every number; the same for the same transform.
    """

    def __init__(self, steps: Callable[[Tensor], Tensor], description: str) -> None:
        self.steps = steps
        self.description = " ".join(description.split())

    def __call__(self, levels: Tensor) -> Tensor:
        """Transform images, uint8, shape (B, 3, H, W), on their device."""
        return self.steps(levels)

    def __repr__(self) -> str:
        """Give the description."""
        return self.description

    @classmethod
    def of_torchvision(cls, entry: Any) -> "PublishedTransform":
        """Give the transform of a registry's entry; torchvision's own takes tensors."""
        preset = entry.transforms()
        return cls(preset, f"torchvision {preset!r}")

    @classmethod
    def of_timm(cls, model: nn.Module) -> "PublishedTransform":
        """Give a model's transform, with those of its steps exchanged that take pictures only."""
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
    """Pad each channel with its own level; torchvision pads tensors with one for all."""
    from timm.data.transforms import center_crop_or_pad

    parts = zip(levels.split(1, dim=1), step.fill, strict=True)
    return torch.cat([center_crop_or_pad(part, step.size, fill) for part, fill in parts], dim=1)
