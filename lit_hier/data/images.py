"""Images from any dataset, preprocessed as the input of networks."""

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import DatasetFolder, VisionDataset

from lit_hier.data.batches import Batch
from lit_hier.data.classes import list_classes
from lit_hier.data.files import ImageFiles
from lit_hier.data.levels import FORMATS, find_deep
from lit_hier.data.preprocessing import PreparedImage, prepare
from lit_hier.data.selection import read_labels, select_per_class
from lit_hier.data.splits import Split, SplitDataModule
from lit_hier.errors import InputError, one_line
from lit_hier.io.pixels import from_levels
from lit_hier.io.safe_read import only_regular_files

_LOG: Final = logging.getLogger("lit_hier")
NO_SIZE: Final = (
    "size is not given, and there is no sampler whose model has one; give the pixels per side, as"
    " in data.init_args.size 64"
)
"""What to say where images have no size."""


def _check_depth(dataset: Any, argument: str) -> None:
    """Reject folders of torchvision's with images of more than 8 bits, which it clips.

    Raises:
        InputError: There is one.
    """
    if isinstance(dataset, DatasetFolder):
        for path in find_deep(Path(file) for file, _ in dataset.samples):
            raise InputError(
                f"{argument}: {path!s:.120} has more than 8 bits, which {type(dataset).__name__}"
                " does not scale; give ImageFiles, which reads folders too"
            )


@contextmanager
def _limited_formats() -> Iterator[None]:
    """Limit the formats that PIL reads by default: data sets of torchvision open files with it."""
    Image.init()
    before = Image.ID[:]
    Image.ID[:] = FORMATS
    try:
        yield
    finally:
        Image.ID[:] = before


class PreparedImages(Dataset[Batch]):
    """Selected images of a dataset, preprocessed; an item is a whole batch.

    An image that cannot be read is skipped, with a line in the log. Images that are constant once
    prepared, and the first one whose EXIF orientation is ignored, have a line each too.

    Args:
        dataset: Its items are pairs of an image, as `prepare` accepts it, and a label.
        label: Label of each image of `dataset`, shape (N,).
        selected: Indices of the selected images, in order, shape (M,).
        size: Pixels per side; `None` if it is to be set later.
        channels: 1 for grayscale or 3 for color.
    """

    def __init__(
        self,
        dataset: VisionDataset,
        label: NDArray[np.int64],
        selected: NDArray[np.int64],
        size: int | None,
        channels: int,
    ) -> None:
        self.dataset = dataset
        self.selected = selected
        self.label = torch.from_numpy(label[selected])
        self.size = size
        self.channels = channels
        self._num_logged = {"constant": 0, "rotated": 0}

    def __len__(self) -> int:
        """Return the number of selected images, readable or not."""
        return len(self.selected)

    def __getitem__(self, index: Tensor) -> Batch:
        """Return the batch of the given sample indices.

        Returns:
            `x`, the B' readable images, float32 in [-1, 1], shape (B', C, size, size); `label`,
            -1 if unknown, int64, shape (B',); `index`, their sample indices, int64, shape (B',);
            `name`, their names in the dataset, a list; `planned`, the argument, int64, shape (B,);
            `image_counts`, the numbers of skipped, converted, enlarged, constant and rotated
            images, int64, shape (5,).

        Raises:
            InputError: `size` is not set, or the dataset has a transform that does not return
                pixel levels.
        """
        if self.size is None:
            raise InputError(NO_SIZE)
        size = self.size
        prepared = [self._prepare(int(number), size) for number in self.selected[index.numpy()]]
        read = [image for image in prepared if image is not None]
        kept = index[torch.tensor([image is not None for image in prepared], dtype=torch.bool)]
        levels = np.array([image.levels for image in read], dtype=np.uint8)
        levels = levels.reshape(len(read), size, size, self.channels)
        image_counts = (
            len(index) - len(read),
            sum(image.converted for image in read),
            sum(image.enlarged for image in read),
            sum(image.constant for image in read),
            sum(image.rotated for image in read),
        )
        return {
            "x": from_levels(torch.from_numpy(levels).movedim(-1, 1).contiguous()),
            "label": self.label[kept],
            "index": kept,
            "name": [self._name(int(number)) for number in self.selected[kept.numpy()]],
            "planned": index,
            "image_counts": torch.tensor(image_counts),
        }

    def _prepare(self, number: int, size: int) -> PreparedImage | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PIL, on unusual files that it can read
                with _limited_formats(), only_regular_files():
                    max_level = getattr(self.dataset, "max_level", None)
                    image = self.dataset[number][0]
                    prepared = prepare(image, size, self.channels, max_level)
        except InputError:
            raise
        except Exception as error:  # PIL may raise anything on a damaged file
            reason = one_line(error) or type(error).__name__
            _LOG.warning(one_line(f"data: skipped {self._path(number)}: {reason}"))
            return None
        if prepared.constant:
            self._log(number, "constant", "all its pixels are equal once it is prepared", 10)
        if prepared.rotated:
            reason = "its EXIF orientation is ignored, as by the paper's preprocessing"
            self._log(number, "rotated", reason, 1)
        return prepared

    def _log(self, number: int, kind: str, reason: str, most: int) -> None:
        """Name an image in the log, unless a process has named enough of its kind."""
        self._num_logged[kind] += 1
        if self._num_logged[kind] <= most:
            last = f"; others are only counted, as `{kind}`"
            more = last if self._num_logged[kind] == most else ""
            _LOG.warning(one_line(f"data: {self._path(number)}: {reason}{more}"))

    def _path(self, number: int) -> str:
        root = getattr(self.dataset, "root", type(self.dataset).__name__)
        return f"{root}/{self._name(number)}"

    def _name(self, number: int) -> str:
        return self.dataset.name(number) if isinstance(self.dataset, ImageFiles) else str(number)

    @property
    def fingerprint(self) -> str | None:
        """Hash of everything that determines the batches; `None` if contents are unknown."""
        selected = self.selected.tolist()
        levels = getattr(self.dataset, "data", None)
        shape = f"{type(self.dataset).__name__} {self.size} {self.channels}"
        digest = hashlib.sha256(f"{shape} {self.label.tolist()}".encode())
        if isinstance(self.dataset, ImageFiles):
            digest.update(self.dataset.fingerprint(selected).encode())
        elif isinstance(levels, Tensor | np.ndarray) and self.dataset.transforms is None:
            digest.update(f"{selected} {levels.shape}".encode())
            digest.update(np.ascontiguousarray(np.asarray(levels)[self.selected]).data)
        else:
            return None
        return digest.hexdigest()


class ImageDataModule(SplitDataModule):
    """Images from any dataset: one of torchvision, or a folder with `ImageFiles`.

    They are preprocessed as for the paper's diffusion model, see `lit_hier.data.preprocessing`.
    The orientation in EXIF data is ignored, as there; so is transparency.
    Images that cannot be read are skipped. `image_counts` counts them, and those that were
    converted or enlarged, are constant once prepared, or state another orientation.

    A logit k of a network belongs to the class of label k; `lit_hier.data.classes` has the order
    of the classes.

    Args:
        held_out: Dataset for prediction and for the reference set. A transform of it must return
            PIL images or uint8 levels.
        train: Dataset for training and validation, if any.
        size: Pixels per side; by default those of the model that `lit-hier predict` runs. Training
            needs a number.
        channels: 1 for grayscale or 3 for color.
        num_per_class: Number of images of each class on which `lit-hier predict` runs
            forward-backward; null for all. Images of unknown class count as one class.
        reference_per_class: Number of images of each class in the test split, the reference set
            for statistics of activations; null for all.
        num_val: Number of validation images, removed from `train`.
        batch_size: Images per training step, over all processes.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Number of worker processes that read images; with 0, the main process does.
        seed: Seed of the selection, of the validation images and of the shuffles.

    Attributes:
        classes: Names of the classes of `held_out`, by label; empty if unknown.
        num_classes: Number of classes, of which some may have no image.

    Raises:
        InputError: A number is out of range, a class has too few images, or a dataset does not
            have the classes of its images.
    """

    def __init__(
        self,
        held_out: VisionDataset,
        train: VisionDataset | None = None,
        size: int | None = None,
        channels: int = 3,
        num_per_class: int | None = 10,
        reference_per_class: int | None = None,
        num_val: int = 0,
        batch_size: int = 64,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed, num_workers=num_workers)
        positive = {
            "size": size,
            "num_per_class": num_per_class,
            "reference_per_class": reference_per_class,
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
        }
        for name, value in positive.items():
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        for name, value in {"num_val": num_val, "num_workers": num_workers, "seed": seed}.items():
            if value < 0:
                raise InputError(f"{name} is {value}; give at least 0")
        if channels not in (1, 3):
            raise InputError(f"channels is {channels}; give 1 for grayscale or 3 for color")
        _check_depth(held_out, "held_out")
        _check_depth(train, "train")
        self.held_out, self.train = held_out, train
        self.size, self.channels, self.num_val = size, channels, num_val
        self._is_given = size is not None
        self.classes = list_classes(held_out)
        shape = (size, channels)
        label = read_labels(held_out, "held_out")
        self.num_classes = max(len(self.classes), int(label.max()) + 1)
        reference = select_per_class(
            label, reference_per_class, seed, self.classes, "reference_per_class"
        )
        few = select_per_class(label, num_per_class, seed, self.classes, "num_per_class")
        self._splits["test"] = PreparedImages(held_out, label, reference, *shape)
        self._splits["predict"] = PreparedImages(held_out, label, few, *shape)
        if train is None and num_val:
            raise InputError(f"num_val is {num_val} without train; give train, or 0")
        if train is not None:
            label = read_labels(train, "train")
            if num_val >= len(label):
                raise InputError(
                    f"num_val is {num_val} of {len(label)} images of train; leave some for"
                    " training"
                )
            others = list_classes(train)
            if self.classes and others and self.classes != others:
                raise InputError(
                    f"train: its {len(others)} classes differ from the {len(self.classes)} of"
                    " held_out, or from their order, so labels would differ in meaning; give both"
                    " the same classes, and the same kind of data set"
                )
            order = np.random.default_rng(seed).permutation(len(label))
            val, rest = order[:num_val], order[num_val:]
            self._splits["val"] = PreparedImages(train, label, val, *shape)
            self._splits["train"] = PreparedImages(train, label, rest, *shape)

    @property
    def training_set(self) -> str:
        """One line with all that determines the training set, except its path; may be empty."""
        if self.train is None:
            return ""
        label = read_labels(self.train, "train")
        max_level = getattr(self.train, "max_level", None)
        white = "" if max_level is None else f", max_level={max_level:g}"
        return (
            f"{len(label) - self.num_val} of {len(label)} images of {type(self.train).__name__}"
            f" (labels {hashlib.sha256(label.data).hexdigest()[:12]}), size={self.size},"
            f" channels={self.channels}, seed={self.seed}{white}"
        )

    def setup(self, stage: str | None = None) -> None:
        """Take the size of the model that the run samples with, unless one was given."""
        if not self._is_given and self.model_size is not None:  # of each run anew
            self.size = self.model_size
            for images in self._splits.values():
                images.size = self.size  # type: ignore[attr-defined]

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Raise, except in prediction, for a batch without images, whose loss is undefined.

        Raises:
            InputError: None of the images of the batch can be read.
        """
        assert self.trainer is not None
        unreadable = len(batch["planned"]) and not len(batch["index"])
        if self.trainer.state.fn != "predict" and unreadable:
            raise InputError(
                "data: no image of a batch can be read, see the log; remove these files, or give"
                " a larger batch_size"
            )
        return batch

    def _dataloader(self, split: Split) -> DataLoader[Batch]:
        if split in ("train", "val") and self.train is None:
            raise InputError("train: give a dataset for training")
        if split == "val" and not self.num_val:
            raise InputError("num_val is 0; give at least 1")
        if self.size is None:
            raise InputError(NO_SIZE)
        return super()._dataloader(split)

    def val_dataloader(self) -> Any:
        """Validation data, in order; in training, none if `num_val` is 0."""
        training = self.trainer is not None and self.trainer.state.fn == "fit"
        return [] if training and not self.num_val else super().val_dataloader()
