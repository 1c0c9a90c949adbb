"""Images in memory, from Python: tensors, or a dataset of any library."""

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hier.data.batches import Batch
from lit_hier.data.digits import ImageDataset
from lit_hier.data.images import PreparedImages
from lit_hier.data.selection import read_labels
from lit_hier.data.splits import Split, SplitDataModule
from lit_hier.errors import InputError
from lit_hier.io.pixels import to_levels

_CHANNELS = {"L": 1, "RGB": 3}
_LABELS = ("targets", "labels", "_labels")


class MemoryImages(SplitDataModule):
    """Images for forward-backward, and a reference set for statistics of activations.

    Args:
        data: Images on which forward-backward runs: a tensor (N, C, H, W) of uint8 levels, or
            floating-point in [-1, 1], which is rounded to 256 levels; or a dataset whose items
            begin with an image, as `lit_hier.data.preprocessing.prepare` accepts it, and whose
            classes, if known, are its `targets` or `labels`.
        reference: The reference set, likewise.
        size: Pixels per side to which the images of a dataset are scaled and cropped; by default
            the short side of its first one. Tensors stay as they are.
        eval_batch_size: Images per batch.

    Raises:
        InputError: The images have another shape, type or range.
    """

    def __init__(
        self, data: Any, reference: Any = None, size: int | None = None, eval_batch_size: int = 32
    ) -> None:
        super().__init__(eval_batch_size, eval_batch_size, 0)
        self.size: int | None = size
        self.classes = tuple(map(str, getattr(data, "classes", None) or ()))
        self._splits["predict"] = self._prepare(data, "data")
        if reference is not None:
            self._splits["test"] = self._prepare(reference, "reference")

    @property
    def num_classes(self) -> int:
        """Number of classes, if the dataset names its `classes`; else 0."""
        return len(self.classes)

    def _prepare(self, data: Any, argument: str) -> Dataset[Batch]:
        if not isinstance(data, Tensor):
            return self._prepare_dataset(data, argument)
        if data.ndim != 4 or data.shape[1] not in (1, 3) or not len(data):
            raise InputError(
                f"{argument}: a tensor of shape {tuple(data.shape)} is not images; give (N, 1, H,"
                " W) or (N, 3, H, W)"
            )
        levels = data.detach().cpu()
        if levels.is_floating_point():
            low, high = float(levels.min()), float(levels.max())
            if not (-1 <= low < 0 and high <= 1):
                raise InputError(
                    f"{argument}: images have values from {low:g} to {high:g}; give values in"
                    " [-1, 1], as diffusion models take them, or uint8 levels"
                )
            levels = to_levels(levels)
        elif levels.dtype != torch.uint8:
            raise InputError(
                f"{argument}: images are {levels.dtype}; give values in [-1, 1] or uint8 levels"
            )
        self.size = self.size or int(levels.shape[-1])
        return ImageDataset(levels, torch.full((len(levels),), -1))

    def _prepare_dataset(self, data: Any, argument: str) -> Dataset[Batch]:
        if not isinstance(data, Sized) or not hasattr(data, "__getitem__") or not len(data):
            raise InputError(
                f"{argument}: {type(data).__name__} is not images; give a tensor (N, C, H, W), a"
                " dataset with a length, a data module, or a grammar"
            )
        first = data[0]
        if not isinstance(first, tuple | list):
            raise InputError(
                f"{argument}: an item of {type(data).__name__} is {type(first).__name__}; give a"
                " dataset whose items are pairs of an image and a label"
            )
        image = first[0]
        mode = getattr(image, "mode", None)
        if mode is not None:
            side, channels = min(image.size), _CHANNELS.get(mode, 3)
        elif isinstance(image, Tensor) and image.ndim in (2, 3):
            side = min(image.shape[-2:])
            channels = int(image.shape[0]) if image.ndim == 3 else 1
        elif isinstance(image, np.ndarray) and image.ndim in (2, 3):
            side = min(image.shape[:2])
            channels = int(image.shape[2]) if image.ndim == 3 else 1
        else:
            raise InputError(
                f"{argument}: an image of {type(data).__name__} is {type(image).__name__}; give"
                " PIL images or uint8 levels"
            )
        self.size = self.size or side
        known = any(getattr(data, name, None) is not None for name in _LABELS)
        label = read_labels(data, argument) if known else np.full(len(data), -1, dtype=np.int64)
        selected = np.arange(len(data))
        return PreparedImages(data, label, selected, self.size, 1 if channels == 1 else 3)

    def fingerprint(self, split: Split) -> str | None:
        """Return a hash of a split's batches; `None` for a dataset, whose contents may change."""
        part = self._splits.get(split)
        return part.fingerprint if isinstance(part, ImageDataset) else None

    def _dataloader(self, split: Split) -> DataLoader[Batch]:
        if split not in self._splits:
            raise InputError("reference: it is not given; give images of the same kind as data")
        return super()._dataloader(split)
