"""Images of more than 8 bits: one level of white per data set, known before the run."""

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import JPEG, folder_of, noise, save
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.datasets import FakeData, ImageFolder

from lit_hier.data import ImageDataModule, ImageFiles
from lit_hier.errors import InputError
from lit_hier.io.pixels import to_levels


def deep(high: int, kind: str = "PNG") -> bytes:
    """Return a grayscale image of 16 bits whose highest level is `high`."""
    return save(Image.fromarray(ramp(high)), kind)


def ramp(high: int) -> NDArray[np.uint16]:
    return np.linspace(0, high, 64).round().astype(np.uint16).reshape(8, 8)


def color(high: int, kind: int = 2) -> bytes:
    """Return a PNG of 16 bits per channel, which PIL cannot write: RGB, or kind 6 with opacity."""
    levels = np.repeat(ramp(high)[..., None], {2: 3, 4: 2, 6: 4}[kind], axis=2).astype(">u2")
    if kind > 2:
        levels[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b""))  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def floating(high: float) -> bytes:
    return save(Image.fromarray(np.linspace(0, high, 64, dtype=np.float32).reshape(8, 8)), "TIFF")


def pnm(kind: int, high: int) -> bytes:
    levels = np.repeat(ramp(high), 3 if kind == 6 else 1).astype(">u2")
    return f"P{kind} 8 8 65535\n".encode() + levels.tobytes()


def batch_of(files: Any) -> dict[str, Tensor]:
    module = ImageDataModule(files, size=8, channels=1, num_per_class=None)
    (batch,) = module.predict_dataloader()
    return batch


def levels_of(files: Any) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = to_levels(batch_of(files)["x"])[:, 0].numpy()
    return levels


AMBIGUOUS = {
    "dark.png": (deep(255), 255, "give max_level, the level of white, such as 255 or 65535"),
    "twelve.png": (deep(4000), 4000, "give max_level, the level of white, such as 4095 or 65535"),
    "dark.tif": (deep(255, "TIFF"), 255, "such as 255 or 65535"),
    "dark.pgm": (pnm(5, 255), 255, "such as 255 or 65535"),
    "dark.ppm": (pnm(6, 255), 511, "convert them to 8 bits, or give max_level: 65535"),
    "color.png": (color(255), 255, "convert them to 8 bits, or give max_level: 65535"),
    "opaque.png": (color(255, 6), 255, "convert them to 8 bits, or give max_level: 65535"),
    "gray_opaque.png": (color(255, 4), 255, "convert them to 8 bits, or give max_level: 65535"),
    "unit.tif": (floating(1), 1, "give max_level, the level of white, such as 1"),
    "float.tiff": (floating(255), 255, "give max_level, the level of white, such as 255"),
    "long.tif": (save(Image.new("I", (8, 8), 70_000), "TIFF"), 70_000, "such as 131071"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_level_of_white_is_rejected_before_the_run(tmp_path: Path, name: str) -> None:
    content, peak, remedy = AMBIGUOUS[name]
    with pytest.raises(InputError, match=rf"^max_level: [^\n]* reach {peak}, [^\n]*{remedy}$"):
        folder_of(tmp_path, **{"a.png": JPEG, name: content})


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_levels_are_scaled_by_the_level_of_white(tmp_path: Path, kind: str, white: int) -> None:
    (tmp_path / f"a.{kind.lower()}").write_bytes(deep(white, kind))
    shift = white.bit_length() - 8
    given = None if white == 65535 else white
    files = ImageFiles(str(tmp_path), max_level=given)
    assert files.max_level == white
    assert np.array_equal(levels_of(files)[0], ramp(white) >> shift)


def test_the_level_of_white_is_one_per_data_set(tmp_path: Path) -> None:
    """A bright image tells that a dark one is dark."""
    files = folder_of(tmp_path, **{"a.png": deep(255), "b.png": deep(40_000), "c.png": color(999)})
    assert files.max_level == 65535
    dark, bright, colored = levels_of(files)
    assert dark.max() == 0
    assert np.array_equal(bright, ramp(40_000) >> 8)
    assert colored.max() == 3
    fingerprints = {ImageFiles(str(tmp_path), max_level=m).fingerprint([0]) for m in (None, 65535)}
    assert len(fingerprints) == 1


def test_floating_point_levels_need_a_level_of_white(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(floating(1))
    found = levels_of(ImageFiles(str(tmp_path), max_level=1.0))[0]
    assert np.array_equal(found, np.round(np.linspace(0, 1, 64) * 255).reshape(8, 8))
    files = [ImageFiles(str(tmp_path), max_level=m) for m in (1.0, 2.0)]
    assert files[0].fingerprint([0]) != files[1].fingerprint([0])


@pytest.mark.parametrize(
    "content",
    [deep(256), floating(float("nan")), floating(-1), save(Image.new("I", (8, 8), -1), "TIFF")],
    ids=["above", "not a number", "negative float", "negative"],
)
def test_impossible_levels_are_skipped(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    name = "a.png" if content.startswith(b"\x89PNG") else "a.tif"
    (tmp_path / name).write_bytes(content)
    batch = batch_of(ImageFiles(str(tmp_path), max_level=255))
    assert batch["image_counts"].tolist() == [1, 0, 0, 0, 0]
    assert f"data: skipped {tmp_path}/{name}: its levels are " in caplog.text


def test_other_data_sets_and_suffixes_are_not_read_wrongly(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(deep(60_000))
    with pytest.raises(InputError, match=r"^held_out: \S+x\.png has more than 8 bits, which Imag"):
        ImageDataModule(ImageFolder(str(tmp_path)), size=8)
    (tmp_path / "a/x.png").rename(tmp_path / "a/x.jpg")
    with pytest.raises(InputError, match=r"^max_level: \S+x\.jpg has more than 8 bits; give max"):
        batch_of(ImageFiles(str(tmp_path)))
    with pytest.raises(InputError, match=r"^max_level: an image of mode I;16 has more than 8 bit"):
        batch_of(Deep(1))


class Deep(FakeData):
    """Images of 16 bits that are not in files."""

    targets = (0,)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.fromarray(ramp(9)), 0


@pytest.mark.parametrize(
    ("max_level", "content", "message"),
    [
        (0, deep(9), "max_level is 0; give the level of white, above 0"),
        (float("nan"), deep(9), "max_level is nan; give"),
        (255, color(255), r"max_level is 255, but of \S+, in 16-bit color, only the upper 8"),
    ],
)
def test_impossible_levels_of_white_are_rejected(
    tmp_path: Path, max_level: float, content: bytes, message: str
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        ImageFiles(str(tmp_path), max_level=max_level)


def test_unreadable_and_usual_images_need_no_level_of_white(tmp_path: Path) -> None:
    cut = deep(255)[:60]
    files = folder_of(tmp_path, **{"a.png": cut, "b.png": b"", "c.tif": b"II*\0", "d.png": JPEG})
    assert files.max_level is None
    assert batch_of(files)["index"].tolist() == [3]


def test_constant_and_rotated_images_are_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    flat = {f"{k:02}.png": save(Image.new("L", (8, 8), 7 * k), "PNG") for k in range(12)}
    turned = save(Image.fromarray(noise(8, 8)), "PNG", exif=exif)
    usual = Image.fromarray(noise(8, 8))
    pictures = {"y.png": turned, "z.png": turned, "u.png": save(usual, "PNG")}
    with caplog.at_level(logging.WARNING, logger="lit_hier"):
        batch = batch_of(folder_of(tmp_path, **flat, **pictures))
    assert batch["image_counts"].tolist() == [0, 0, 0, 12, 2]
    assert torch.equal(batch["index"], torch.arange(15))
    lines = [line for line in caplog.messages if "all its pixels are equal" in line]
    assert [line.split(": ")[1] for line in lines] == [f"{tmp_path}/{k:02}.png" for k in range(10)]
    assert lines[-1].endswith("; others are only counted, as `constant`")
    (line,) = (line for line in caplog.messages if "EXIF orientation is ignored" in line)
    assert line.startswith(f"data: {tmp_path}/y.png: ")
