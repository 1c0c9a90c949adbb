"""Selection, splits and fingerprints of images; published datasets; invalid arguments."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import run_in
from images import JPEG, folder_of, mnist, noise
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST, FakeData

from lit_hier.data import DigitsDataModule, ImageDataModule, ImageFiles, RHMDataModule
from lit_hier.errors import InputError
from lit_hier.io.pixels import to_levels
from lit_hier.rhm import RandomHierarchyModel


def classes_of(root: Path, **numbers: int) -> ImageFiles:
    """Write a folder for each class; the red level of an image is its number in the class."""
    for name, number in numbers.items():
        (root / name).mkdir(parents=True)
        for k in range(number):
            Image.new("RGB", (8, 8), (k, 0, 0)).save(root / name / f"{k:03}.png")
    return ImageFiles(str(root))


def load(module: ImageDataModule, split: str = "predict") -> dict[str, Tensor]:
    batches = list(getattr(module, f"{split}_dataloader")())
    joined = {name: torch.cat([b[name] for b in batches]) for name in ("x", "label", "index")}
    return joined | {"red": to_levels(joined["x"])[:, 0, 0, 0]}


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_the_seed_selects_the_same_number_of_images_of_each_class(tmp_path: Path) -> None:
    files = classes_of(tmp_path / "a", ant=40, bee=9, cow=25)
    options: dict[str, Any] = {"size": 8, "num_per_class": 6}
    found = load(ImageDataModule(files, **options))
    assert found["label"].bincount().tolist() == [6, 6, 6]
    assert found["index"].tolist() == list(range(18))
    for label in range(3):
        assert found["red"][found["label"] == label].int().diff().gt(0).all()
    for same in ({"num_workers": 2}, {"eval_batch_size": 5}, {"batch_size": 3}):
        other = load(ImageDataModule(files, **options, **same))
        assert all(torch.equal(found[name], other[name]) for name in found)
    assert not torch.equal(load(ImageDataModule(files, seed=1, **options))["red"], found["red"])
    # A larger number keeps the images of a smaller one; the selection is independent by class.
    more = load(ImageDataModule(files, size=8, num_per_class=9))
    alone = load(ImageDataModule(classes_of(tmp_path / "b", ant=40), **options))
    ants = {int(red) for red in found["red"][found["label"] == 0]}
    assert ants < {int(red) for red in more["red"][more["label"] == 0]}
    assert ants == {int(red) for red in alone["red"]}


def test_the_reference_set_has_all_or_some_images_of_each_class(tmp_path: Path) -> None:
    files = classes_of(tmp_path, ant=7, bee=4)
    whole = ImageDataModule(files, size=8, num_per_class=2)
    assert whole.classes == ["ant", "bee"]
    assert load(whole, "test")["label"].tolist() == files.targets
    some = ImageDataModule(files, size=8, num_per_class=2, reference_per_class=3)
    assert load(some, "test")["label"].tolist() == [0, 0, 0, 1, 1, 1]
    everything = load(ImageDataModule(files, size=8, num_per_class=None))
    assert everything["label"].tolist() == files.targets


def test_images_of_unknown_class_count_as_one_class(tmp_path: Path) -> None:
    files = folder_of(tmp_path, **{f"{k}.png": JPEG for k in range(9)})
    module = ImageDataModule(files, size=8, num_per_class=5)
    assert module.classes == []
    assert load(module)["label"].tolist() == [-1] * 5
    assert len(load(module, "test")["label"]) == 9


def test_training_and_validation_images_are_disjoint(tmp_path: Path) -> None:
    files = classes_of(tmp_path, ant=30)
    module = ImageDataModule(files, files, size=8, num_val=8, batch_size=5)
    val = load(module, "val")["red"].tolist()
    train = load(module, "train")["red"].tolist()
    assert (len(val), len(train)) == (8, 22)
    assert sorted(val + train) == list(range(30))
    again = ImageDataModule(files, files, size=8, num_val=8)
    assert load(again, "val")["red"].tolist() == val
    other = ImageDataModule(files, files, size=8, num_val=8, seed=1)
    assert load(other, "val")["red"].tolist() != val
    assert len({data.training_set for data in (module, again, other)}) == 2
    assert ImageDataModule(files, size=8).training_set == ""


class FewCIFAR10(CIFAR10):
    """CIFAR-10 without the check of the files' hashes."""

    train_list: ClassVar[list[Any]] = []
    test_list: ClassVar = [["test_batch", None]]
    meta: ClassVar = {"filename": "batches.meta", "key": "label_names", "md5": None}


def test_images_of_mnist_are_unchanged(tmp_path: Path) -> None:
    images, labels = mnist(tmp_path)
    module = ImageDataModule(
        MNIST(str(tmp_path), train=False), size=28, channels=1, num_per_class=5
    )
    reference = load(module, "test")
    assert np.array_equal(to_levels(reference["x"])[:, 0], images)
    assert np.array_equal(reference["label"], labels)
    assert len(module.classes) == 10
    assert load(module)["label"].bincount().tolist() == [5] * 10
    # In color, all images are converted.
    colored = ImageDataModule(MNIST(str(tmp_path), train=False), size=32, num_per_class=6)
    (batch, _) = colored.predict_dataloader()
    assert batch["x"].shape == (32, 3, 32, 32)
    assert batch["image_counts"].tolist() == [0, 32, 32, 0, 0]
    assert torch.equal(batch["x"][:, 0], batch["x"][:, 2])


def test_images_of_cifar_are_unchanged(tmp_path: Path) -> None:
    levels, labels = noise(20, 3, 32, 32), [k % 2 for k in range(20)]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = {"data": levels.reshape(20, -1), "labels": labels}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}))
    module = ImageDataModule(FewCIFAR10(str(tmp_path), train=False), size=32, num_per_class=4)
    reference = load(module, "test")
    assert np.array_equal(to_levels(reference["x"]), levels)
    assert reference["label"].tolist() == labels
    assert module.classes == ["plane", "car"]
    assert load(module)["label"].bincount().tolist() == [4, 4]


def test_the_fingerprint_changes_if_and_only_if_the_batches_do(tmp_path: Path) -> None:
    root = tmp_path / "a"
    files = classes_of(root, ant=6, bee=5)
    options: dict[str, Any] = {"size": 8, "num_per_class": 3}

    def fingerprint(split: Any = "predict", **changed: Any) -> str | None:
        return ImageDataModule(ImageFiles(str(root)), **(options | changed)).fingerprint(split)

    base = fingerprint()
    assert base == fingerprint(
        eval_batch_size=2, num_workers=2, batch_size=7, reference_per_class=1
    )
    assert base == fingerprint()
    others = [
        base,
        fingerprint(size=9),
        fingerprint(channels=1),
        fingerprint(num_per_class=4),
        fingerprint(seed=1),
    ]
    others += [fingerprint("test"), fingerprint("test", reference_per_class=2)]
    changed = ImageDataModule(files, **options)._splits["predict"]
    name = files.name(int(changed.selected[0]))  # type: ignore[attr-defined]
    (root / name).write_bytes(JPEG)
    others.append(fingerprint())
    (root / "bee").rename(root / "Aardvark")  # its files are now first, as class 0
    others.append(fingerprint())
    assert None not in others
    assert len(set(others)) == len(others)


def test_the_fingerprint_of_data_in_memory_depends_on_pixels_and_labels(tmp_path: Path) -> None:
    mnist(tmp_path)
    options: dict[str, Any] = {"size": 28, "channels": 1, "num_per_class": 5}

    def fingerprint(
        change: Callable[[Any], object] = id, split: Any = "test", **changed: Any
    ) -> Any:
        dataset = MNIST(str(tmp_path), train=False)
        change(dataset)
        return ImageDataModule(dataset, **(options | changed)).fingerprint(split)

    def other_pixel(dataset: Any) -> None:
        dataset.data[3, 4, 5] += 1

    def other_label(dataset: Any) -> None:
        dataset.targets[3] += 1

    assert fingerprint() == fingerprint(num_workers=1, num_per_class=3)
    others = [
        fingerprint(),
        fingerprint(other_pixel),
        fingerprint(other_label),
        fingerprint(size=27),
        fingerprint(split="predict"),
    ]
    assert len(set(others)) == len(others)
    assert fingerprint(lambda dataset: setattr(dataset, "transforms", abs)) is None
    assert fingerprint(split="train") is None


def test_fingerprints_of_digits_differ_by_arguments_and_split() -> None:
    fingerprints = []
    for options in ({}, {"seed": 1}, {"size": 9}):
        digits = DigitsDataModule(**options)
        digits.setup()
        splits: tuple[Any, ...] = ("test", "predict", "val", "train")
        fingerprints += [digits.fingerprint(split) for split in splits]
    assert None not in fingerprints
    assert len(set(fingerprints)) == 12
    again = DigitsDataModule()
    again.setup()
    assert again.fingerprint("test") == fingerprints[0]
    rhm = RHMDataModule(RandomHierarchyModel(4, 2, 2, 2), 10, 1, 1, 1)
    rhm.setup()
    assert rhm.fingerprint("test") is None


class Floats(FakeData):
    """Images that a transform has converted to floating point."""

    targets: ClassVar = [0] * 4

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return torch.zeros(3, 8, 8), 0


class Other(FakeData):
    targets: ClassVar = [0, 1, 2, 0]
    classes: ClassVar = ["ant", "bat", "bee"]


class Several(FakeData):
    targets = np.zeros((4, 2), dtype=int)


def next_batch(module: ImageDataModule, split: str) -> Any:
    return next(iter(getattr(module, f"{split}_dataloader")()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda files: ImageDataModule(files, size=0), "size is 0; give at least 1"),
        (lambda files: ImageDataModule(files, channels=2), "channels is 2; give 1 for grayscale"),
        (lambda files: ImageDataModule(files, num_per_class=0), "num_per_class is 0; give at"),
        (lambda files: ImageDataModule(files, num_workers=-1), "num_workers is -1; give at lea"),
        (lambda files: ImageDataModule(files, seed=-1), "seed is -1; give at least 0"),
        (
            lambda files: ImageDataModule(files),
            "num_per_class is 10, but class bee has only 2 images; give a smaller number, or null",
        ),
        (
            lambda files: ImageDataModule(files, num_per_class=1, reference_per_class=3),
            "reference_per_class is 3, but class ant has only 2 images",
        ),
        (
            lambda files: ImageDataModule(files, files, num_per_class=1, num_val=4),
            "num_val is 4 of 4 images of train; leave some for training",
        ),
        (
            lambda files: ImageDataModule(files, num_per_class=1, num_val=4),
            "num_val is 4 without train; give train, or 0",
        ),
        (
            lambda files: next_batch(ImageDataModule(files, num_per_class=1), "train"),
            "train: give a dataset for training",
        ),
        (
            lambda files: next_batch(ImageDataModule(files, files, num_per_class=1), "val"),
            "num_val is 0; give at least 1",
        ),
        (
            lambda files: ImageDataModule(files, Other(4), num_per_class=1),
            "train: its 3 classes differ from the 2 of held_out, or from their order, so lab",
        ),
        (
            lambda files: ImageDataModule(FakeData(4)),
            "held_out: FakeData has no classes of its images",
        ),
        (
            lambda files: ImageDataModule(files, Several(4), num_per_class=1),
            r"train: Several has 4 images, but targets of shape \(4, 2\) and type int64; give",
        ),
        (
            lambda files: next_batch(
                ImageDataModule(Floats(4), size=8, num_per_class=4), "predict"
            ),
            "transform: images are float32; remove the dataset's transform",
        ),
    ],
)
def test_invalid_arguments_are_rejected(tmp_path: Path, build: Any, message: str) -> None:
    files = classes_of(tmp_path, ant=2, bee=2)
    if "bee" in message:
        files = classes_of(tmp_path / "more", ant=10, bee=2)
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        build(files)


@pytest.mark.filterwarnings("ignore:.*logging interval")
@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
def test_a_config_may_name_datasets_of_torchvision_by_class_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Train on MNIST and predict on a folder with one unreadable file, by the command line."""
    mnist(tmp_path / "data")
    folder_of(tmp_path / "pictures", **{"a.png": JPEG, "b.png": b""})
    config = tmp_path / "config.yaml"
    config.write_text("""
        data:
          class_path: ImageDataModule
          init_args:
            held_out: {class_path: ImageFiles, init_args: {root: pictures}}
            train:
              class_path: torchvision.datasets.MNIST
              init_args: {root: data, train: false}
            size: 8
            channels: 1
            num_per_class: 2
        trainer: {accelerator: cpu, enable_progress_bar: false}
        """)
    model = "{class_path: DDPMTask, init_args: {size: 8, widths: [8], save_to: pipeline}}"
    run_in(tmp_path, "fit", "-c", str(config), "--model", model, "--trainer.max_epochs=1")
    model = (
        "{class_path: DDPMSampler, init_args: {pretrained: pipeline, num_steps: 2, times: [1]}}"
    )
    with caplog.at_level(logging.WARNING, logger="lit_hier"):
        run_in(tmp_path, "predict", "-c", str(config), "--model", model)
    assert (tmp_path / "pipeline").is_dir()
    assert "data: skipped pictures/b.png: it is not an image in a supported format" in caplog.text
