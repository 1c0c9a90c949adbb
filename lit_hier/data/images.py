"""Images of any data set, prepared as networks take them."""

import hashlib
import logging
import warnings
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import VisionDataset

from lit_hier.data.batches import Batch
from lit_hier.data.choice import choose, read_labels
from lit_hier.data.files import ImageFiles
from lit_hier.data.preprocessing import Prepared, prepare
from lit_hier.data.splits import Split, SplitDataModule
from lit_hier.errors import InputError, one_line
from lit_hier.io.pixels import from_levels

_LOG: Final = logging.getLogger("lit_hier")


class PreparedImages(Dataset[Batch]):
    """Chosen images of a data set; an item is a whole batch.

    Images that cannot be read are left out of their batch, each with a line in the log.

    Args:
        dataset: Its items are an image, see `prepare`, and a class.
        label: The class of each of its images, shape (N,).
        chosen: Which images, and in which order, shape (M,).
        size: Pixels per side.
        channels: 1, grey, or 3, colours.
    """

    def __init__(
        self,
        dataset: VisionDataset,
        label: NDArray[np.int64],
        chosen: NDArray[np.int64],
        size: int,
        channels: int,
    ) -> None:
        self.dataset = dataset
        self.chosen = chosen
        self.label = torch.from_numpy(label[chosen])
        self.size = size
        self.channels = channels

    def __len__(self) -> int:
        """Images, read or not."""
        return len(self.chosen)

    def __getitem__(self, index: Tensor) -> Batch:
        """Give a batch.

        Returns:
            `x`, float32 in [-1, 1], (B', C, size, size), of the B' images that can be read;
            `label`, int64, (B',), -1 if unknown; `index`, those of the indices asked for, int64,
            (B',); `name`, what each is called in the data set, a list; `planned`, the indices
            asked for, int64, (B,); `image_counts`, how many of these were skipped, converted and
            enlarged, int64, (3,).

        Raises:
            InputError: The data set has a transform that gives no levels.
        """
        prepared = [self._prepare(int(number)) for number in self.chosen[index.numpy()]]
        read = [image for image in prepared if image is not None]
        kept = index[torch.tensor([image is not None for image in prepared], dtype=torch.bool)]
        levels = np.array([image.levels for image in read], dtype=np.uint8)
        levels = levels.reshape(len(read), self.size, self.size, self.channels)
        image_counts = (
            len(index) - len(read),
            sum(image.converted for image in read),
            sum(image.enlarged for image in read),
        )
        return {
            "x": from_levels(torch.from_numpy(levels).movedim(-1, 1).contiguous()),
            "label": self.label[kept],
            "index": kept,
            "name": [self._name(int(number)) for number in self.chosen[kept.numpy()]],
            "planned": index,
            "image_counts": torch.tensor(image_counts),
        }

    def _prepare(self, number: int) -> Prepared | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what PIL finds odd, and reads all the same
                return prepare(self.dataset[number][0], self.size, self.channels)
        except InputError:
            raise
        except Exception as error:  # a broken file may make PIL stumble anywhere
            reason = " ".join(str(error).split()) or type(error).__name__
            place = getattr(self.dataset, "root", type(self.dataset).__name__)
            _LOG.warning(one_line(f"data: skipped {place}/{self._name(number)}: {reason}"))
            return None

    def _name(self, number: int) -> str:
        return self.dataset.name(number) if isinstance(self.dataset, ImageFiles) else str(number)

    @property
    def fingerprint(self) -> str | None:
        """What decides the batches, as a hash in hex; `None` where contents cannot be told."""
        chosen = self.chosen.tolist()
        levels = getattr(self.dataset, "data", None)
        shape = f"{type(self.dataset).__name__} {self.size} {self.channels}"
        digest = hashlib.sha256(f"{shape} {self.label.tolist()}".encode())
        if isinstance(self.dataset, ImageFiles):
            digest.update(self.dataset.fingerprint(chosen).encode())
        elif isinstance(levels, (Tensor, np.ndarray)) and self.dataset.transforms is None:
            digest.update(f"{chosen} {levels.shape}".encode())
            digest.update(np.ascontiguousarray(np.asarray(levels)[self.chosen]).data)
        else:
            return None
        return digest.hexdigest()


class ImageDataModule(SplitDataModule):
    """Images of any data set, of torchvision or one's own: `ImageFiles`.

    They are prepared as the paper's diffusion model takes them, see
    `lit_hier.data.preprocessing`. Images that cannot be read are left out and counted in
    `image_counts`, as are those that had to be converted or enlarged.

    Args:
        held_out: The images that are looked at. Transforms of the data set give PIL images or
            uint8 levels, if there are any.
        train: Images to learn from, if any.
        size: Pixels per side.
        channels: 1, grey, or 3, colours.
        num_per_class: Images of each class that `lit-hier predict` turns round; all with null.
            Images of unknown class count as one class.
        reference_per_class: Images of each class in the reference set for statistics of
            activations, the test split; all of `held_out` with null.
        num_val: Validation images, taken from `train`.
        batch_size: Images per training step, all processes together.
        eval_batch_size: Images per batch elsewhere.
        num_workers: Processes that read images ahead; with 0, they are read as they are needed.
        seed: Seed of what is chosen, and of shuffles.

    Attributes:
        classes: Names of the classes of `held_out`, by label; empty if they are unknown.
        num_classes: Their number; at least that of the labels.

    Raises:
        InputError: A number is out of range, a class has too few images, or a data set does not
            say its classes.
    """

    def __init__(
        self,
        held_out: VisionDataset,
        train: VisionDataset | None = None,
        size: int = 256,
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
            raise InputError(f"channels is {channels}; give 1, grey, or 3, colours")
        self.held_out, self.train = held_out, train
        self.size, self.channels, self.num_val = size, channels, num_val
        self.classes = [str(name) for name in getattr(held_out, "classes", ())]
        shape = (size, channels)
        label = read_labels(held_out, "held_out")
        self.num_classes = max(len(self.classes), int(label.max()) + 1)
        reference = choose(label, reference_per_class, seed, self.classes, "reference_per_class")
        few = choose(label, num_per_class, seed, self.classes, "num_per_class")
        self._splits["test"] = PreparedImages(held_out, label, reference, *shape)
        self._splits["predict"] = PreparedImages(held_out, label, few, *shape)
        if train is None and num_val:
            raise InputError(f"num_val is {num_val}, but there is no train; give it, or 0")
        if train is not None:
            label = read_labels(train, "train")
            if num_val >= len(label):
                raise InputError(
                    f"num_val is {num_val}, of {len(label)} images of train; leave some to learn"
                    " from"
                )
            others = [str(name) for name in getattr(train, "classes", ())]
            if self.classes and others and self.classes != others:
                raise InputError(
                    f"train: its {len(others)} classes are not held_out's {len(self.classes)},"
                    " so labels would mean different things; give both the same classes"
                )
            order = np.random.default_rng(seed).permutation(len(label))
            val, rest = order[:num_val], order[num_val:]
            self._splits["val"] = PreparedImages(train, label, val, *shape)
            self._splits["train"] = PreparedImages(train, label, rest, *shape)

    @property
    def training_set(self) -> str:
        """What decides the training set, in one line, wherever its files lie; empty without."""
        if self.train is None:
            return ""
        label = read_labels(self.train, "train")
        return (
            f"{len(label) - self.num_val} of {len(label)} images of {type(self.train).__name__}"
            f" (labels {hashlib.sha256(label.data).hexdigest()[:12]}), size={self.size},"
            f" channels={self.channels}, seed={self.seed}"
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Refuse a batch without images, of which no loss can be taken, unless it is turned round.

        Raises:
            InputError: None of its images can be read.
        """
        assert self.trainer is not None
        lost = len(batch["planned"]) and not len(batch["index"])
        if self.trainer.state.fn != "predict" and lost:
            raise InputError(
                "data: no image of a batch can be read, see the log; remove these files, or take"
                " larger batches"
            )
        return batch

    def _dataloader(self, split: Split) -> DataLoader[Batch]:
        if split in ("train", "val") and self.train is None:
            raise InputError("train: give a data set to learn from")
        if split == "val" and not self.num_val:
            raise InputError("num_val is 0; give at least 1")
        return super()._dataloader(split)

    def val_dataloader(self) -> Any:
        """Validation data, in order; in training there may be none."""
        training = self.trainer is not None and self.trainer.state.fn == "fit"
        return [] if training and not self.num_val else super().val_dataloader()
