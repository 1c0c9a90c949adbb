"""Damaged and unusual image files: converted or skipped, and counted."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import JPEG, folder_of, noise, picture, published, save
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.data import ImageDataModule, ImageFiles
from lit_hier.data.preprocessing import prepare
from lit_hier.diffusion import IMAGE_COUNTS
from lit_hier.errors import InputError
from lit_hier.io.pixels import to_levels
from lit_hier.modules import DDPMTask


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """Return a grayscale PNG whose header states any size."""
    blocks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b""))  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in blocks
    )


def tiff(channels: int) -> bytes:
    """Return a TIFF of 4 x 4 pixels with any number of channels."""
    tags = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 277: channels, 278: 4}
    tags[279] = 16 * channels
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, n, 0) for tag, n in tags.items())
    start = 8 + 16 * channels
    head = struct.pack("<2sHI", b"II", 42, start) + bytes(16 * channels)
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


def exif(jpeg: bytes) -> bytes:
    """Insert malformed EXIF data."""
    nonsense = b"Exif\0\0II*\0\xff\xff\xff\x7fnonsense"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(nonsense) + 2) + nonsense + jpeg[2:]


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(16) + data[middle + 16 :]


def animation() -> bytes:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    return save(frames[0], "GIF", save_all=True, append_images=frames[1:])


def see_through() -> bytes:
    image = picture().convert("P")
    return save(image, "PNG", transparency=bytes(range(256)))


def sideways() -> bytes:
    data = Image.Exif()
    data[0x0112] = 6
    return save(picture(), "JPEG", exif=data)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\nshowpage\n%%EOF\n"
INPUTS = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "skipped"),
    "empty.jpg": (b"", "skipped"),
    "text.png": (b"this is not an image", "skipped"),
    "random.webp": (noise(1000).tobytes(), "skipped"),
    "page.png": (POSTSCRIPT, "skipped"),
    "truncated.gif": (animation()[:40], "skipped"),
    "truncated.webp": (save(picture(), "WEBP")[:100], "skipped"),
    "damaged.png": (damaged(save(picture(), "PNG")), "skipped"),
    "headonly.png": (png(20, 20), "skipped"),
    "bomb.png": (png(60_000, 60_000), "skipped"),
    "strip.pgm": (b"P5 3000000 1 255\n" + bytes(3_000_000), "skipped"),
    "channels.tif": (tiff(5), "skipped"),
    "lab.tif": (save(Image.new("LAB", (20, 20)).copy(), "TIFF"), "converted constant"),
    "one.png": (save(picture(1, 1, 3), "PNG"), "enlarged constant"),
    "low.jpg": (save(picture(7, 300, 3), "JPEG"), "enlarged"),
    "gray.jpg": (save(picture(20, 20), "JPEG"), "converted"),
    "cmyk.jpg": (save(picture().convert("CMYK"), "JPEG"), "converted"),
    "alpha.png": (save(picture().convert("RGBA"), "PNG"), "converted"),
    "palette.png": (see_through(), "converted"),
    "bits.png": (save(picture().convert("1"), "PNG"), "converted"),
    "deep.png": (save(Image.fromarray(noise(20, 20).astype(np.uint16) << 8), "PNG"), "converted"),
    "animated.gif": (animation(), "converted constant"),
    "both.png": (save(picture(4, 4), "PNG"), "converted enlarged"),
    "exif.jpg": (exif(JPEG), ""),
    "sideways.jpg": (sideways(), "rotated"),
    "wrongly_named.png": (JPEG, ""),
    "CAPITALS.JPEG": (JPEG, ""),
    "two_pictures.tiff": (save(picture(), "TIFF", save_all=True, append_images=[picture()]), ""),
}


def batch_of(files: ImageFiles, size: int = 16, channels: int = 3) -> dict[str, Tensor]:
    module = ImageDataModule(files, size=size, channels=channels, num_per_class=None)
    (batch,) = module.predict_dataloader()
    return batch


@pytest.mark.parametrize("name", INPUTS)
def test_unusual_images_are_converted_or_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any, name: str
) -> None:
    data, outcome = INPUTS[name]
    batch = batch_of(folder_of(tmp_path / "in", **{"a.png": JPEG, name: data, "z.png": JPEG}))
    assert batch["image_counts"].tolist() == [outcome.split().count(kind) for kind in IMAGE_COUNTS]
    kept = 2 if outcome == "skipped" else 3
    assert batch["x"].shape == (kept, 3, 16, 16)
    assert batch["x"].abs().max() <= 1
    lines = [record.getMessage() for record in caplog.records if record.name == "lit_hier"]
    if outcome == "skipped":
        position = sorted(["a.png", name, "z.png"]).index(name)
        assert batch["index"].tolist() == [k for k in range(3) if k != position]
        assert len(lines) == 1
        assert lines[0].startswith(f"data: skipped {tmp_path}/in/{name}: ")
        assert len(lines[0]) > len(f"data: skipped {tmp_path}/in/{name}: ")
    elif "constant" in outcome or "rotated" in outcome:
        (line,) = lines
        assert line.startswith(f"data: {tmp_path}/in/{name}: ")
    else:
        assert lines == []
    assert capfd.readouterr() == ("", "")


def test_conversion_keeps_the_first_frame_and_the_upper_8_bits(tmp_path: Path) -> None:
    """The orientation in EXIF data is ignored."""
    names = ("animated.gif", "deep.png", "exif.jpg")
    files = folder_of(tmp_path, **{name: INPUTS[name][0] for name in names})
    levels = to_levels(batch_of(files)["x"])
    assert (levels[0] == torch.tensor([255, 0, 0])[:, None, None]).all()
    deep = np.asarray(Image.open(BytesIO(INPUTS["deep.png"][0]))) >> 8
    gray = published(deep[..., None].astype(np.uint8), 16)[..., 0]
    assert np.array_equal(levels[1], np.stack([gray] * 3))
    assert np.array_equal(levels[2].movedim(0, -1), prepare(Image.open(BytesIO(JPEG)), 16, 3)[0])


def test_a_broken_link_and_a_deleted_file_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    files = folder_of(tmp_path, **{"b.png": JPEG, "c.png": JPEG})
    (tmp_path / "c.png").unlink()
    batch = batch_of(files)
    assert batch["index"].tolist() == [1]
    assert batch["image_counts"].tolist() == [2, 0, 0, 0, 0]


def test_large_images_are_read_without_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns about an image above its limit, and raises above twice the limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    data = {"a.png": save(picture(20, 20, 3), "PNG"), "b.png": save(picture(40, 40, 3), "PNG")}
    batch = batch_of(folder_of(tmp_path, **data))
    assert batch["index"].tolist() == [0]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_batch_without_readable_images_is_empty(tmp_path: Path, num_workers: int) -> None:
    files = folder_of(tmp_path, **{f"{k}.png": b"nothing" for k in range(4)})
    options: dict[str, Any] = {"size": 8, "channels": 1, "num_per_class": 3}
    module = ImageDataModule(files, eval_batch_size=2, num_workers=num_workers, **options)
    first, last = module.predict_dataloader()
    assert first["x"].shape == (0, 1, 8, 8)
    assert first["x"].dtype == torch.float32
    assert (len(first["label"]), len(first["index"])) == (0, 0)
    assert first["image_counts"].tolist() == [2, 0, 0, 0, 0]
    assert last["image_counts"].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.filterwarnings("ignore:.*logging interval")
@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
def test_training_rejects_a_batch_without_readable_images(tmp_path: Path) -> None:
    files = folder_of(tmp_path / "in", **{f"{k}.png": b"nothing" for k in range(4)})
    data = ImageDataModule(files, files, size=8, num_per_class=1)
    module = DDPMTask(8, str(tmp_path / "pipeline"), channels=3, widths=[8])
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False,
                      enable_progress_bar=False,
                      enable_model_summary=False)  # fmt: skip
    with pytest.raises(InputError, match=r"^data: no image of a batch can be read, see the log"):
        trainer.fit(module, data)
