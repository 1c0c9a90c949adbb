"""Real images that need no download: the handwritten digits that scikit-learn brings along."""

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

_BRIGHTEST: Final = 16  # of scikit-learn's digits
_NUM: Final = 1797


class ImageDataset(Dataset[Batch]):
    """Images in memory; an item is a whole batch.

    Args:
        images: uint8, shape (N, C, H, W).
        label: Classes, int64, shape (N,).
    """

    def __init__(self, images: Tensor, label: Tensor) -> None:
        self.images = images
        self.label = label

    def __len__(self) -> int:
        """Images."""
        return len(self.label)

    def __getitem__(self, index: Tensor) -> Batch:
        """Give a batch.

        Returns:
            `x`, float32 in [-1, 1], (B, C, H, W); `label`, int64, (B,); `index`, the sample
            indices asked for, int64, (B,).
        """
        x = from_levels(self.images[index])
        return {"x": x, "label": self.label[index], "index": index}

    @property
    def fingerprint(self) -> str:
        """What decides the batches, as a hash in hex."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.label.numpy().data)
        return digest.hexdigest()


class DigitsDataModule(SplitDataModule):
    """1,797 handwritten digits in grey, of 8 x 8 pixels or enlarged; ten classes.

    They are shuffled once by the seed, then split: test first, then prediction, validation and,
    of the rest, training.

    Args:
        size: Pixels per side, 8 or more; enlarged bilinearly.
        num_test: Test images; also the usual reference set for statistics of activations.
        num_predict: Held-out images that `lit-hier predict` turns round.
        num_val: Validation images.
        batch_size: Images per training step, all processes together.
        eval_batch_size: Images per batch elsewhere.
        seed: Seed of the shuffle.

    Raises:
        InputError: A number is too small, or there are fewer images than asked for.
    """

    classes = tuple(map(str, range(10)))
    """Names of the classes, in the order of their numbers."""
    num_classes = len(classes)
    channels = 1

    def __init__(
        self,
        size: int = 8,
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
        if size < 8:
            raise InputError(f"size is {size}; give at least 8")
        if seed < 0:
            raise InputError(f"seed is {seed}; give at least 0")
        held_out = num_test + num_predict + num_val
        if held_out >= _NUM:
            raise InputError(
                f"num_test + num_predict + num_val = {held_out} of {_NUM} digits leave none to"
                " learn from; ask for fewer"
            )
        self.size = size
        self.sizes = [num_test, num_predict, num_val, _NUM - held_out]

    @property
    def training_set(self) -> str:
        """What decides the training set, in one line."""
        return f"{self.sizes[-1]} digits of {self.size} pixels, seed={self.seed}"

    def setup(self, stage: str | None = None) -> None:
        """Split the digits, once."""
        if self._splits:
            return
        images, label = load_digits(return_X_y=True)
        grey = torch.from_numpy(images).float().view(-1, 1, 8, 8) / _BRIGHTEST
        if self.size > 8:
            grey = interpolate(grey, size=(self.size, self.size), mode="bilinear")
        pixels = (grey * 255).round().to(torch.uint8)
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(_NUM))
        names: tuple[Split, ...] = ("test", "predict", "val", "train")
        classes = torch.from_numpy(label).long()
        self._splits = {
            name: ImageDataset(pixels[part], classes[part])
            for name, part in zip(names, order.split(self.sizes), strict=True)
        }
