"""The handwritten digits that scikit-learn includes: real images without a download."""

import hashlib
from typing import Final

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from lit_hier.data.batches import Batch
from lit_hier.data.splits import Split, SplitDataModule
from lit_hier.errors import InputError
from lit_hier.io.pixels import from_levels

_MAX_VALUE: Final = 16  # of a pixel in scikit-learn's digits
_SIDE: Final = 8  # pixels of scikit-learn's digits
_NUM_IMAGES: Final = 1797
_NUM_HELD_OUT: Final = 600  # images that are never for training


class ImageDataset(Dataset[Batch]):
    """Images in memory; an item is a whole batch.

    Args:
        images: Pixel levels, uint8, shape (N, C, H, W).
        label: Classes, int64, shape (N,).
    """

    def __init__(self, images: Tensor, label: Tensor) -> None:
        self.images = images
        self.label = label

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.label)

    def __getitem__(self, index: Tensor) -> Batch:
        """Return the batch of the given sample indices.

        Returns:
            `x`, float32 in [-1, 1], shape (B, C, H, W); `label`, int64, shape (B,); `index`, the
            argument, int64, shape (B,).
        """
        x = from_levels(self.images[index])
        return {"x": x, "label": self.label[index], "index": index}

    @property
    def fingerprint(self) -> str:
        """Hash, in hexadecimal, of everything that determines the batches."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.label.numpy().data)
        return digest.hexdigest()


class DigitsDataModule(SplitDataModule):
    """1,797 grayscale images of handwritten digits, 8 x 8 pixels or upsampled; ten classes.

    The images are shuffled once by the seed. The first are test images, then come those for
    prediction; the last are training images, before them those for validation. At least the first
    600 are held out, so that `num_test` and `num_predict` leave the training set alone as long as
    these, with `num_val`, are not more.

    Args:
        size: Pixels per side, at least 8; larger images are upsampled bilinearly. By default those
            of the model that `lit-hier predict` runs, and 8 for others.
        num_test: Number of test images; by default also the reference set for statistics of
            activations.
        num_predict: Number of held-out images on which `lit-hier predict` runs forward-backward.
        num_val: Number of validation images.
        batch_size: Images per training step, over all processes.
        eval_batch_size: Images per batch in validation, test and prediction.
        seed: Seed of the shuffle.

    Raises:
        InputError: A number is too small, or the splits leave no training images.
    """

    classes = tuple(map(str, range(10)))
    """Names of the classes, by label."""
    num_classes = len(classes)
    channels = 1

    def __init__(
        self,
        size: int | None = None,
        num_test: int = 300,
        num_predict: int = 200,
        num_val: int = 100,
        batch_size: int = 64,
        eval_batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        numbers = {"num_test": num_test, "num_predict": num_predict, "num_val": num_val}
        numbers |= {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for name, value in numbers.items():
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        if size is not None and size < 8:
            raise InputError(f"size is {size}; give at least 8")
        if seed < 0:
            raise InputError(f"seed is {seed}; give at least 0")
        held_out = num_test + num_predict + num_val
        if held_out >= _NUM_IMAGES:
            raise InputError(
                f"num_test + num_predict + num_val = {held_out} of {_NUM_IMAGES} digits leave none"
                " for training; give smaller numbers"
            )
        self.size = size or _SIDE
        self._is_given = size is not None
        num_train = _NUM_IMAGES - max(held_out, _NUM_HELD_OUT)
        unused = _NUM_IMAGES - held_out - num_train
        self.sizes = [num_test, num_predict, unused, num_val, num_train]

    @property
    def training_set(self) -> str:
        """One line with everything that determines the training set."""
        return f"{self.sizes[-1]} digits of {self.size} pixels, seed={self.seed}"

    def setup(self, stage: str | None = None) -> None:
        """Split the images; a second call does nothing, unless another model has another size.

        Raises:
            InputError: The model's images are smaller than a digit.
        """
        size = self.size if self._is_given else self.model_size or self.size
        if self._splits and size == self.size:
            return
        if size < _SIDE:
            raise InputError(
                f"size: the model's images have {size} pixels per side, but digits at least"
                f" {_SIDE}; give another model"
            )
        self.size = size
        images, label = load_digits(return_X_y=True)
        gray = torch.from_numpy(images).float().view(-1, 1, _SIDE, _SIDE) / _MAX_VALUE
        if self.size > _SIDE:
            gray = interpolate(gray, size=(self.size, self.size), mode="bilinear")
        pixels = (gray * 255).round().to(torch.uint8)
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(_NUM_IMAGES))
        test, predict, _, val, train = order.split(self.sizes)
        parts: dict[Split, Tensor] = {"test": test, "predict": predict, "val": val, "train": train}
        classes = torch.from_numpy(label).long()
        self._splits = {
            name: ImageDataset(pixels[part], classes[part]) for name, part in parts.items()
        }
