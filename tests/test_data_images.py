"""Images prepared to the last bit, chosen, counted; and whatever may be wrong with them."""

import logging
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import inside
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import Trainer
from scipy.sparse import csr_array
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST, FakeData

from lit_hier.cli import main
from lit_hier.data import DigitsDataModule, ImageDataModule, ImageFiles, RHMDataModule
from lit_hier.data.preprocessing import prepare
from lit_hier.diffusion import REMEDIES
from lit_hier.errors import InputError
from lit_hier.modules import DDPMTrainer
from lit_hier.pixels import to_levels
from lit_hier.rhm import RandomHierarchyModel

RNG = np.random.default_rng(0)
_BITS = 22  # of the fixed-point weights


def noise(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution with a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    support: float,
    old: int,
    new: int,
) -> csr_array:
    """The convolution's weights as integers, shape (new, old)."""
    scale = old / new
    stretch = max(scale, 1)
    rows, columns, values = [], [], []
    for row in range(new):
        centre = (row + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), old)
        w = kernel((np.arange(first, last) - centre + 0.5) / stretch)
        w = np.round(w / w.sum() * 2**_BITS)
        rows += [row] * len(w)
        columns += range(first, last)
        values += w.astype(int).tolist()
    return csr_array((values, (rows, columns)), shape=(new, old))


def resized(levels: NDArray[Any], kernel: Any, support: float, *new: int) -> NDArray[Any]:
    """Convolve an array (H, W, C) along its rows, round, then along its columns, and round."""
    for axis, length in ((1, new[1]), (0, new[0])):
        if levels.shape[axis] != length:
            matrix = weights(kernel, support, levels.shape[axis], length)
            lines = np.moveaxis(levels, axis, 0)
            total = matrix @ lines.reshape(len(lines), -1).astype(int) + 2 ** (_BITS - 1)
            total = (total >> _BITS).clip(0, 255).reshape(length, *lines.shape[1:])
            levels = np.moveaxis(total, 0, axis)
    return levels


def published(levels: NDArray[Any], size: int) -> NDArray[Any]:
    """The paper's preprocessing, spelled out down to the integer arithmetic."""
    while min(levels.shape[:2]) // 2 >= size:
        levels = resized(levels, box, 0.5, levels.shape[0] // 2, levels.shape[1] // 2)
    factor = size / min(levels.shape[:2])
    height, width = (round(side * factor) for side in levels.shape[:2])
    levels = resized(levels, bicubic, 2, height, width)
    down, right = (height - size) // 2, (width - size) // 2
    return levels[down:, right:][:size, :size]


@pytest.mark.parametrize("seed", range(40))
def test_preprocessing_is_that_of_the_paper_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 300, 2) if seed % 4 else rng.integers(40, 70, 2)
    channels, size = (1, 3)[seed % 2], int(rng.integers(1, 64))
    # Noise of extremes, so that the cubic's overshoot is cut off, and of all levels.
    levels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    levels = np.where(levels > 127, 255, 0).astype(np.uint8) if seed % 3 == 0 else levels
    found = prepare(levels, size, channels)
    assert np.array_equal(found.levels, published(levels, size))
    assert found.enlarged == (min(height, width) < size)
    assert not found.converted


@pytest.mark.parametrize(("height", "width"), [(2160, 3840), (500, 375), (375, 500), (512, 511)])
def test_large_pictures_at_the_papers_size(height: int, width: int) -> None:
    levels = noise(height, width, 1)
    assert np.array_equal(prepare(levels, 256, 1).levels, published(levels, 256))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_are_converted_first(mode: str, channels: int) -> None:
    wanted = {1: "L", 3: "RGB"}[channels]
    image = Image.fromarray(noise(30, 41, 3)).convert(mode)
    found = prepare(image, 16, channels)
    assert found.levels.shape == (16, 16, channels)
    assert found.converted == (mode != wanted)
    assert np.array_equal(found.levels, prepare(image.convert(wanted), 16, channels).levels)


def test_what_fits_stays_as_it_is() -> None:
    for channels, size in ((1, 28), (3, 32)):
        levels = noise(size, size, channels)
        as_tensor = torch.from_numpy(levels).movedim(-1, 0)
        for image in (levels, as_tensor, Image.fromarray(levels.squeeze())):
            found = prepare(image, size, channels)
            assert np.array_equal(found.levels, levels)
            assert (found.converted, found.enlarged) == (False, False)
    flat = noise(8, 8)
    assert np.array_equal(prepare(flat, 8, 1).levels[..., 0], flat)
    assert np.array_equal(prepare(torch.from_numpy(flat), 8, 1).levels[..., 0], flat)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(*shape: int) -> Image.Image:
    return Image.fromarray(noise(*(shape or (20, 24, 3))))


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG in grey, of any size that its head may claim."""
    blocks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b""))  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in blocks
    )


def tiff(channels: int) -> bytes:
    """A picture of 4 x 4 pixels with any number of channels."""
    tags = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 277: channels, 278: 4}
    tags[279] = 16 * channels
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, n, 0) for tag, n in tags.items())
    start = 8 + 16 * channels
    head = struct.pack("<2sHI", b"II", 42, start) + bytes(16 * channels)
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


def exif(jpeg: bytes) -> bytes:
    """Put nonsense where a camera would say which way is up."""
    nonsense = b"Exif\0\0II*\0\xff\xff\xff\x7fnonsense"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(nonsense) + 2) + nonsense + jpeg[2:]


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(16) + data[middle + 16 :]


def animation() -> bytes:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    return save(frames[0], "GIF", save_all=True, append_images=frames[1:])


def see_through() -> bytes:
    image = picture().convert("P")
    return save(image, "PNG", transparency=bytes(range(256)))


JPEG = save(picture(), "JPEG")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\nshowpage\n%%EOF\n"
INPUTS = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "skipped"),
    "empty.jpg": (b"", "skipped"),
    "text.png": (b"this is no picture", "skipped"),
    "random.webp": (noise(1000).tobytes(), "skipped"),
    "page.png": (POSTSCRIPT, "skipped"),
    "truncated.gif": (animation()[:40], "skipped"),
    "truncated.webp": (save(picture(), "WEBP")[:100], "skipped"),
    "damaged.png": (damaged(save(picture(), "PNG")), "skipped"),
    "headonly.png": (png(20, 20), "skipped"),
    "bomb.png": (png(60_000, 60_000), "skipped"),
    "strip.pgm": (b"P5 3000000 1 255\n" + bytes(3_000_000), "skipped"),
    "channels.tif": (tiff(5), "skipped"),
    "float.tif": (save(Image.new("F", (20, 20), 0.5), "TIFF"), "skipped"),
    "long.tif": (save(Image.new("I", (20, 20), 70_000), "TIFF"), "skipped"),
    "lab.tif": (save(Image.new("LAB", (20, 20)).copy(), "TIFF"), "converted"),
    "one.png": (save(picture(1, 1, 3), "PNG"), "enlarged"),
    "low.jpg": (save(picture(7, 300, 3), "JPEG"), "enlarged"),
    "grey.jpg": (save(picture(20, 20), "JPEG"), "converted"),
    "cmyk.jpg": (save(picture().convert("CMYK"), "JPEG"), "converted"),
    "alpha.png": (save(picture().convert("RGBA"), "PNG"), "converted"),
    "palette.png": (see_through(), "converted"),
    "bits.png": (save(picture().convert("1"), "PNG"), "converted"),
    "deep.png": (save(Image.fromarray(noise(20, 20).astype(np.uint16) << 8), "PNG"), "converted"),
    "animated.gif": (animation(), "converted"),
    "both.png": (save(picture(4, 4), "PNG"), "converted enlarged"),
    "exif.jpg": (exif(JPEG), ""),
    "wrongly_named.png": (JPEG, ""),
    "CAPITALS.JPEG": (JPEG, ""),
    "two_pictures.tiff": (save(picture(), "TIFF", save_all=True, append_images=[picture()]), ""),
}


def folder_of(root: Path, **files: bytes) -> ImageFiles:
    root.mkdir(exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return ImageFiles(str(root))


def batch_of(files: ImageFiles, size: int = 16, channels: int = 3) -> dict[str, Tensor]:
    module = ImageDataModule(files, size=size, channels=channels, num_per_class=None)
    (batch,) = module.predict_dataloader()
    return batch


@pytest.mark.parametrize("name", INPUTS)
def test_odd_images_are_mended_or_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any, name: str
) -> None:
    data, outcome = INPUTS[name]
    batch = batch_of(folder_of(tmp_path / "in", **{"a.png": JPEG, name: data, "z.png": JPEG}))
    assert batch["remedies"].tolist() == [outcome.split().count(remedy) for remedy in REMEDIES]
    kept = 2 if outcome == "skipped" else 3
    assert batch["x"].shape == (kept, 3, 16, 16)
    assert batch["x"].abs().max() <= 1
    lines = [record.getMessage() for record in caplog.records if record.name == "lit_hier"]
    if outcome == "skipped":
        place = sorted(["a.png", name, "z.png"]).index(name)
        assert batch["index"].tolist() == [k for k in range(3) if k != place]
        assert len(lines) == 1
        assert lines[0].startswith(f"data: skipped {tmp_path}/in/{name}: ")
        assert len(lines[0]) > len(f"data: skipped {tmp_path}/in/{name}: ")
    else:
        assert lines == []
    assert capfd.readouterr() == ("", "")


def test_what_a_remedy_leaves_of_the_picture(tmp_path: Path) -> None:
    """Of an animation the first frame; of 16 bits the upper 8; of a camera's turn nothing."""
    names = ("animated.gif", "deep.png", "exif.jpg")
    files = folder_of(tmp_path, **{name: INPUTS[name][0] for name in names})
    levels = to_levels(batch_of(files)["x"])
    assert (levels[0] == torch.tensor([255, 0, 0])[:, None, None]).all()
    deep = np.asarray(Image.open(BytesIO(INPUTS["deep.png"][0]))) >> 8
    grey = published(deep[..., None].astype(np.uint8), 16)[..., 0]
    assert np.array_equal(levels[1], np.stack([grey] * 3))
    assert np.array_equal(levels[2].movedim(0, -1), prepare(Image.open(BytesIO(JPEG)), 16, 3)[0])


def test_a_link_to_nowhere_and_a_file_gone_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    files = folder_of(tmp_path, **{"b.png": JPEG, "c.png": JPEG})
    (tmp_path / "c.png").unlink()
    batch = batch_of(files)
    assert batch["index"].tolist() == [1]
    assert batch["remedies"].tolist() == [2, 0, 0]


def test_large_images_are_read_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns of an image beyond its limit, and refuses one of twice as many pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    data = {"a.png": save(picture(20, 20, 3), "PNG"), "b.png": save(picture(40, 40, 3), "PNG")}
    batch = batch_of(folder_of(tmp_path, **data))
    assert batch["index"].tolist() == [0]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_batches_of_which_nothing_can_be_read(tmp_path: Path, num_workers: int) -> None:
    files = folder_of(tmp_path, **{f"{k}.png": b"nothing" for k in range(4)})
    options: dict[str, Any] = {"size": 8, "channels": 1, "num_per_class": 3}
    module = ImageDataModule(files, eval_batch_size=2, num_workers=num_workers, **options)
    first, last = module.predict_dataloader()
    assert first["x"].shape == (0, 1, 8, 8)
    assert first["x"].dtype == torch.float32
    assert (len(first["label"]), len(first["index"])) == (0, 0)
    assert first["remedies"].tolist() == [2, 0, 0]
    assert last["remedies"].tolist() == [1, 0, 0]


@pytest.mark.filterwarnings("ignore:.*logging interval")
@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
def test_training_ends_at_a_batch_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    files = folder_of(tmp_path / "in", **{f"{k}.png": b"nothing" for k in range(4)})
    data = ImageDataModule(files, files, size=8, num_per_class=1)
    module = DDPMTrainer(8, str(tmp_path / "pipeline"), channels=3, widths=[8])
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False,
                      use_distributed_sampler=False, enable_progress_bar=False,
                      enable_model_summary=False)  # fmt: skip
    with pytest.raises(InputError, match=r"^data: no image of a batch can be read, see the log"):
        trainer.fit(module, data)


def classes_of(root: Path, **numbers: int) -> ImageFiles:
    """Folders of classes, with so many files each; the red level counts a class's files."""
    for name, number in numbers.items():
        (root / name).mkdir(parents=True)
        for k in range(number):
            Image.new("RGB", (8, 8), (k, 0, 0)).save(root / name / f"{k:03}.png")
    return ImageFiles(str(root))


def looked_at(module: ImageDataModule, split: str = "predict") -> dict[str, Tensor]:
    batches = list(getattr(module, f"{split}_dataloader")())
    joined = {name: torch.cat([b[name] for b in batches]) for name in ("x", "label", "index")}
    return joined | {"red": to_levels(joined["x"])[:, 0, 0, 0]}


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_as_many_images_of_each_class_chosen_by_the_seed(tmp_path: Path) -> None:
    files = classes_of(tmp_path / "a", ant=40, bee=9, cow=25)
    options: dict[str, Any] = {"size": 8, "num_per_class": 6}
    found = looked_at(ImageDataModule(files, **options))
    assert found["label"].bincount().tolist() == [6, 6, 6]
    assert found["index"].tolist() == list(range(18))
    for label in range(3):
        assert found["red"][found["label"] == label].int().diff().gt(0).all()
    for same in ({"num_workers": 2}, {"eval_batch_size": 5}, {"batch_size": 3}):
        other = looked_at(ImageDataModule(files, **options, **same))
        assert all(torch.equal(found[name], other[name]) for name in found)
    assert not torch.equal(
        looked_at(ImageDataModule(files, seed=1, **options))["red"], found["red"]
    )
    # More images of a class keep those that there were; other classes do not matter.
    more = looked_at(ImageDataModule(files, size=8, num_per_class=9))
    alone = looked_at(ImageDataModule(classes_of(tmp_path / "b", ant=40), **options))
    ants = {int(red) for red in found["red"][found["label"] == 0]}
    assert ants < {int(red) for red in more["red"][more["label"] == 0]}
    assert ants == {int(red) for red in alone["red"]}


def test_the_reference_set_is_all_or_some_of_each_class(tmp_path: Path) -> None:
    files = classes_of(tmp_path, ant=7, bee=4)
    whole = ImageDataModule(files, size=8, num_per_class=2)
    assert whole.classes == ["ant", "bee"]
    assert looked_at(whole, "test")["label"].tolist() == files.targets
    some = ImageDataModule(files, size=8, num_per_class=2, reference_per_class=3)
    assert looked_at(some, "test")["label"].tolist() == [0, 0, 0, 1, 1, 1]
    everything = looked_at(ImageDataModule(files, size=8, num_per_class=None))
    assert everything["label"].tolist() == files.targets


def test_unknown_classes_count_as_one(tmp_path: Path) -> None:
    files = folder_of(tmp_path, **{f"{k}.png": JPEG for k in range(9)})
    module = ImageDataModule(files, size=8, num_per_class=5)
    assert module.classes == []
    assert looked_at(module)["label"].tolist() == [-1] * 5
    assert len(looked_at(module, "test")["label"]) == 9


def test_training_and_validation_share_no_image(tmp_path: Path) -> None:
    files = classes_of(tmp_path, ant=30)
    module = ImageDataModule(files, files, size=8, num_val=8, batch_size=5)
    val = looked_at(module, "val")["red"].tolist()
    train = looked_at(module, "train")["red"].tolist()
    assert (len(val), len(train)) == (8, 22)
    assert sorted(val + train) == list(range(30))
    again = ImageDataModule(files, files, size=8, num_val=8)
    assert looked_at(again, "val")["red"].tolist() == val
    other = ImageDataModule(files, files, size=8, num_val=8, seed=1)
    assert looked_at(other, "val")["red"].tolist() != val
    told = {data.training_set for data in (module, again, other)}
    assert len(told) == 2
    assert ImageDataModule(files, size=8).training_set == ""


def idx(array: NDArray[np.uint8]) -> bytes:
    """A file of MNIST."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(root: Path, num: int = 60) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write digits in MNIST's format, five and a few more of each; give them."""
    images, labels = noise(num, 28, 28), (np.arange(num) % 10).astype(np.uint8)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return images, labels


class FewCIFAR10(CIFAR10):
    """CIFAR-10 in its own format, without the check that it is the one and only."""

    train_list: ClassVar[list[Any]] = []
    test_list: ClassVar = [["test_batch", None]]
    meta: ClassVar = {"filename": "batches.meta", "key": "label_names", "md5": None}


def test_mnist_comes_as_it_is(tmp_path: Path) -> None:
    images, labels = mnist(tmp_path)
    module = ImageDataModule(
        MNIST(str(tmp_path), train=False), size=28, channels=1, num_per_class=5
    )
    reference = looked_at(module, "test")
    assert np.array_equal(to_levels(reference["x"])[:, 0], images)
    assert np.array_equal(reference["label"], labels)
    assert len(module.classes) == 10
    assert looked_at(module)["label"].bincount().tolist() == [5] * 10
    # In colours, all are converted.
    coloured = ImageDataModule(MNIST(str(tmp_path), train=False), size=32, num_per_class=6)
    (batch, _) = coloured.predict_dataloader()
    assert batch["x"].shape == (32, 3, 32, 32)
    assert batch["remedies"].tolist() == [0, 32, 32]
    assert torch.equal(batch["x"][:, 0], batch["x"][:, 2])


def test_cifar_comes_as_it_is(tmp_path: Path) -> None:
    levels, labels = noise(20, 3, 32, 32), [k % 2 for k in range(20)]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = {"data": levels.reshape(20, -1), "labels": labels}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}))
    module = ImageDataModule(FewCIFAR10(str(tmp_path), train=False), size=32, num_per_class=4)
    reference = looked_at(module, "test")
    assert np.array_equal(to_levels(reference["x"]), levels)
    assert reference["label"].tolist() == labels
    assert module.classes == ["plane", "car"]
    assert looked_at(module)["label"].bincount().tolist() == [4, 4]


def test_the_fingerprint_changes_with_the_batches_and_with_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "a"
    files = classes_of(root, ant=6, bee=5)
    options: dict[str, Any] = {"size": 8, "num_per_class": 3}

    def told(split: Any = "predict", **changed: Any) -> str | None:
        return ImageDataModule(ImageFiles(str(root)), **(options | changed)).fingerprint(split)

    base = told()
    assert base == told(eval_batch_size=2, num_workers=2, batch_size=7, reference_per_class=1)
    assert base == told()
    others = [base, told(size=9), told(channels=1), told(num_per_class=4), told(seed=1)]
    others += [told("test"), told("test", reference_per_class=2)]
    changed = ImageDataModule(files, **options)._splits["predict"]
    name = files.name(int(changed.chosen[0]))  # type: ignore[attr-defined]
    (root / name).write_bytes(JPEG)
    others.append(told())
    (root / "bee").rename(root / "Aardvark")  # its files come first now, as class 0
    others.append(told())
    assert None not in others
    assert len(set(others)) == len(others)


def test_the_fingerprint_of_data_in_memory(tmp_path: Path) -> None:
    mnist(tmp_path)
    options: dict[str, Any] = {"size": 28, "channels": 1, "num_per_class": 5}

    def told(change: Callable[[Any], object] = id, split: Any = "test", **changed: Any) -> Any:
        dataset = MNIST(str(tmp_path), train=False)
        change(dataset)
        return ImageDataModule(dataset, **(options | changed)).fingerprint(split)

    def other_pixel(dataset: Any) -> None:
        dataset.data[3, 4, 5] += 1

    def other_label(dataset: Any) -> None:
        dataset.targets[3] += 1

    assert told() == told(num_workers=1, num_per_class=3)
    others = [told(), told(other_pixel), told(other_label), told(size=27), told(split="predict")]
    assert len(set(others)) == len(others)
    assert told(lambda dataset: setattr(dataset, "transforms", abs)) is None
    assert told(split="train") is None


def test_fingerprints_of_the_other_data_modules() -> None:
    told = []
    for options in ({}, {"seed": 1}, {"size": 9}):
        digits = DigitsDataModule(**options)
        digits.setup()
        told += [digits.fingerprint(split) for split in ("test", "predict", "val", "train")]
    assert None not in told
    assert len(set(told)) == 12
    again = DigitsDataModule()
    again.setup()
    assert again.fingerprint("test") == told[0]
    rhm = RHMDataModule(RandomHierarchyModel(4, 2, 2, 2), 10, 1, 1, 1)
    rhm.setup()
    assert rhm.fingerprint("test") is None


class Floats(FakeData):
    """Images that a transform has taken away from 256 levels."""

    targets: ClassVar = [0] * 4

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return torch.zeros(3, 8, 8), 0


class Other(FakeData):
    targets: ClassVar = [0, 1, 2, 0]
    classes: ClassVar = ["ant", "bat", "bee"]


class Several(FakeData):
    targets = np.zeros((4, 2), dtype=int)


def lit_hier(folder: Path, *arguments: str) -> None:
    with inside(folder), patch.object(sys, "argv", ["lit-hier", *arguments]):
        main()


def next_batch(module: ImageDataModule, split: str) -> Any:
    return next(iter(getattr(module, f"{split}_dataloader")()))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda files: ImageDataModule(files, size=0), "size is 0; give at least 1"),
        (lambda files: ImageDataModule(files, channels=2), "channels is 2; give 1, grey, or 3"),
        (lambda files: ImageDataModule(files, num_per_class=0), "num_per_class is 0; give at"),
        (lambda files: ImageDataModule(files, num_workers=-1), "num_workers is -1; give at lea"),
        (lambda files: ImageDataModule(files, seed=-1), "seed is -1; give at least 0"),
        (
            lambda files: ImageDataModule(files),
            "num_per_class is 10, but class bee has only 2 images; ask for fewer, or for all",
        ),
        (
            lambda files: ImageDataModule(files, num_per_class=1, reference_per_class=3),
            "reference_per_class is 3, but class ant has only 2 images",
        ),
        (
            lambda files: ImageDataModule(files, files, num_per_class=1, num_val=4),
            "num_val is 4, of 4 images of train; leave some to learn from",
        ),
        (
            lambda files: ImageDataModule(files, num_per_class=1, num_val=4),
            "num_val is 4, but there is no train; give it, or 0",
        ),
        (
            lambda files: next_batch(ImageDataModule(files, num_per_class=1), "train"),
            "train: give a data set to learn from",
        ),
        (
            lambda files: next_batch(ImageDataModule(files, files, num_per_class=1), "val"),
            "num_val is 0; give at least 1",
        ),
        (
            lambda files: ImageDataModule(files, Other(4), num_per_class=1),
            "train: its 3 classes are not held_out's 2, so labels would mean different",
        ),
        (
            lambda files: ImageDataModule(FakeData(4)),
            "held_out: FakeData does not say the classes of its images",
        ),
        (
            lambda files: ImageDataModule(files, Several(4), num_per_class=1),
            r"train: Several has 4 images, but targets of shape \(4, 2\) and type int64; take",
        ),
        (
            lambda files: next_batch(ImageDataModule(Floats(4), num_per_class=4), "predict"),
            "transform: images come as float32; leave the data set's transform out",
        ),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path: Path, build: Any, said: str) -> None:
    files = classes_of(tmp_path, ant=2, bee=2)
    if "bee" in said:
        files = classes_of(tmp_path / "more", ant=10, bee=2)
    with pytest.raises(InputError, match=rf"^{said}[^\n]*$"):
        build(files)


@pytest.mark.filterwarnings("ignore:.*logging interval")
@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
def test_a_model_learns_a_data_set_of_torchvision_by_its_class_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Short names, class paths and one file that cannot be read, through the command line."""
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
    model = "{class_path: DDPMTrainer, init_args: {size: 8, widths: [8], save_to: pipeline}}"
    lit_hier(tmp_path, "fit", "-c", str(config), "--model", model, "--trainer.max_epochs=1")
    model = (
        "{class_path: DDPMSampler, init_args: {pretrained: pipeline, num_steps: 2, times: [1]}}"
    )
    with caplog.at_level(logging.WARNING, logger="lit_hier"):
        lit_hier(tmp_path, "predict", "-c", str(config), "--model", model)
    assert (tmp_path / "pipeline").is_dir()
    assert "data: skipped pictures/b.png: it is no image of a known format" in caplog.text
