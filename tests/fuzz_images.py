"""Malformed images, folders of them, their labels, and data sets of images."""

import io
import os
import random
import shutil
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attack import EXECUTED, assert_not_executed
from conftest import inside
from fuzz import LIMIT, Rejected
from fuzz_mutations import replace_path
from fuzz_use import Use, as_reported, corrupt_file, logged
from images import mnist
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from lit_hier.cli.errors import instantiate
from lit_hier.data import ImageDataModule, ImageFiles


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    """Write a PNG's header with any size, and chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), *chunks, _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@cache
def bombs() -> dict[str, bytes]:
    """Return small files that decompress to large images."""
    zeros = zlib.compress(bytes(64 * 2**20), 9)
    image = _chunk(b"IDAT", zlib.compress(bytes(13 * 4)))
    giant = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(giant, "TIFF", compression="group4")
    return {
        "giant.png": _png(2**31 - 1, 2**31 - 1, _chunk(b"IDAT", zeros)),
        "wide.png": _png(2**30, 1, _chunk(b"IDAT", zeros)),
        "large.png": _png(30_000, 30_000, _chunk(b"IDAT", zeros)),
        "narrow.png": _png(1, 150_000_000, _chunk(b"IDAT", zeros)),
        "profile.png": _png(4, 4, _chunk(b"iCCP", b"x\0\0" + zeros), image),
        "words.png": _png(4, 4, _chunk(b"iTXt", b"x\0\x01\0\0\0" + zeros), image),
        "text.png": _png(4, 4, *[_chunk(b"zTXt", b"x\0\0" + zeros)] * 9, image),
        "giant.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b"\x2c\0\0\0\0\xff\xff\xff\xff"
        b"\0\x08\x01\x00\x00;",
        "giant.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40,
                                         *[2**31 - 1] * 2, 1, 24, *[0] * 6),
        "giant.ppm": b"P6 2147483647 2147483647 255\n",
        "many.pgm": b"P2 9999999 9 255\n" + b"1 " * 99,
        "giant.tiff": giant.getvalue(),
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }  # fmt: skip


def pictures() -> dict[str, bytes]:
    """Return valid images of every format and mode that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (18, 14, 3), dtype=np.uint8)
    colors = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    frames = {"save_all": True, "append_images": [colors.convert("L").convert("P")] * 3}
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("a.png", colors, {}),
        ("b.png", colors.convert("P"), {}),
        ("c.png", colors.convert("RGBA"), {}),
        ("d.png", colors.convert("I;16"), {}),
        ("e.png", colors.convert("1"), {}),
        ("f.jpg", colors, {"exif": exif}),
        ("g.jpg", colors.convert("CMYK"), {}),
        ("h.jpg", colors, {"progressive": True}),
        ("i.gif", colors.convert("P"), frames),
        ("j.webp", colors, {"lossless": True}),
        ("k.webp", colors, frames),
        ("l.tif", colors, {"compression": "tiff_lzw"}),
        ("m.tif", colors.convert("F"), {}),
        ("n.tif", colors, {"save_all": True, "append_images": [colors] * 3}),
        ("o.bmp", colors.convert("P"), {}),
        ("p.ppm", colors, {}),
        ("q.pgm", colors.convert("L"), {}),
        ("r.png", colors, {"icc_profile": b"x" * 5000}),
    ]
    encoded = {}
    for name, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, format=Image.registered_extensions()[Path(name).suffix], **options)
        encoded[name] = buffer.getvalue()
    return encoded


def images(source: Path) -> Use:
    """Files of images."""
    whole, unpacking = pictures(), bombs()

    def use(rng: random.Random, folder: Path) -> None:
        name, content = rng.choice(list(whole.items()))
        way = rng.random()
        if way < 0.12:
            name, content = rng.choice(list(unpacking.items()))
        elif way < 0.2:
            content = rng.choice(list(whole.values()))
        (folder / name).write_bytes(content)
        if way >= 0.2:
            corrupt_file(rng, folder / name)
        (folder / "whole.png").write_bytes(whole["a.png"])
        channels = rng.choice((1, 3))
        with as_reported(), logged() as log:
            found = ImageDataModule(ImageFiles(str(folder)), size=8, channels=channels,
                                    num_per_class=None)  # fmt: skip
            read = found._splits["predict"][torch.arange(len(found.held_out))]
            assert len(read["x"]) + len(log.lines) == len(found.held_out)
            assert read["x"].isfinite().all()
            if log.lines:
                raise Rejected(log.lines[0][-LIMIT:])  # a path may be long

    return use


NAMES = (
    *("a", "cat", "n01440764", "ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002_n01440764"),
    *("two\nlines", "\x1b[31mred", "ünïcödé", "name with, comma", '"quoted"', " ", "..a"),
    *(".hidden", "-1", "0", "1", "99999999999", "x" * 200),
    b"\xff\xfe".decode(errors="surrogateescape"),
)
ENDINGS = (".png", ".PNG", ".JPEG", ".jpg", ".txt", "", ".png.png", ".pt", ".zip")


def folders(source: Path) -> Use:
    """Layouts of folders of images, with strange names, links and files."""
    whole = list(pictures().values())

    def use(rng: random.Random, folder: Path) -> None:
        root = folder / "images"
        root.mkdir()
        (folder / "outside.png").write_bytes(whole[0])
        inner = rng.sample(NAMES, rng.randrange(4))
        for name in [*inner, "./."] if rng.random() < 0.5 else inner:
            if name != "./." and os.path.lexists(root / name):
                continue
            (root / name).mkdir(exist_ok=True)
            for _ in range(rng.randrange(4)):
                path = root / name / f"{rng.choice(NAMES)}{rng.choice(ENDINGS)}"
                if os.path.lexists(path):
                    continue
                path.write_bytes(rng.choice(whole))
                if rng.random() < 0.2:
                    path.unlink()
                    replace_path(rng, path)
        if rng.random() < 0.2:
            (root / "link").symlink_to(rng.choice(("..", ".", "../outside.png", "/proc/self")))
        with as_reported(), logged() as log:
            data = ImageDataModule(ImageFiles(str(root)), size=8, num_per_class=None)
            for start in range(0, min(len(data.held_out), 9), 3):
                data._splits["predict"][torch.arange(start, min(start + 3, len(data.held_out)))]
            data.fingerprint("predict")
            if log.lines:
                raise Rejected(log.lines[0][-LIMIT:])  # a path may be long

    return use


def labels(source: Path) -> Use:
    """Files of labels: tables, and ImageNet's development kit."""
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 7)]
    (source / "images").mkdir()
    for name in names:
        (source / "images" / name).write_bytes(pictures()["a.png"])
    wnids = ["n01440764", "n02123394", "n04037443"]
    synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    for number, wnid in enumerate(wnids):
        synsets[number] = (number + 1, wnid, 0)
    (source / "devkit").mkdir()
    savemat(source / "devkit/meta.mat", {"synsets": synsets})
    truth = "ILSVRC2012_validation_ground_truth.txt"
    (source / "devkit" / truth).write_text("1\n2\n3\n3\n2\n1\n")
    tables = {
        "wnids.csv": "".join(f"{name},{wnids[k % 3]}\n" for k, name in enumerate(names)),
        "numbers.csv": "".join(f"{name},{k % 3}\n" for k, name in enumerate(names)),
        "kaggle.csv": "ImageId,PredictionString\n"
        + "".join(f"{name[:-5]},n01440764 1 2 3 4\n" for name in names),
    }

    def use(rng: random.Random, folder: Path) -> None:
        if rng.random() < 0.5:
            shutil.copytree(source / "devkit", folder / "devkit")
            corrupt_file(rng, folder / "devkit" / rng.choice((truth, "meta.mat")))
            given = rng.choice(("devkit", f"devkit/{truth}"))
        else:
            given, text = rng.choice(list(tables.items()))
            (folder / given).write_text(text)
            corrupt_file(rng, folder / given)
            if (path := folder / given).is_file() and not path.is_symlink():
                cells = (
                    b",",
                    b"\n",
                    b'"',
                    b"../../x.png",
                    b"\x1b",
                    b"-1",
                    b"1e9",
                    b"\0",
                    b"9" * 400,
                )
                content = path.read_bytes()
                where = rng.randrange(len(content) + 1)
                if rng.random() < 0.5:
                    path.write_bytes(content[:where] + rng.choice(cells) + content[where:])
        with as_reported():
            ImageFiles(str(source / "images"), str(folder / given))

    return use


def downloads(source: Path) -> Use:
    """Files of torchvision's MNIST and CIFAR-10."""
    mnist(source, 30)
    archive = source / "cifar-10-batches-py"
    archive.mkdir()
    for name, _ in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list):
        (archive / name).write_bytes(f"cos\nmkdir\n(S'{EXECUTED}'\ntR.".encode())

    def use(rng: random.Random, folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        kind = rng.choice((datasets.MNIST, datasets.MNIST, datasets.CIFAR10))
        for path in rng.sample(sorted(folder.rglob("*-ubyte")), 3):
            corrupt_file(rng, path)
        with inside(folder), as_reported():
            try:
                data = instantiate(kind, root=".", train=rng.random() < 0.5)
                found = instantiate(ImageDataModule, data, size=8, channels=1, num_per_class=1)
                found._splits["predict"][torch.arange(1)]
            finally:
                assert_not_executed(folder)

    return use
