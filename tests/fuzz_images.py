"""Hostile images, folders of them, and their labels."""

import io
import os
import shutil
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_hostile import contents
from fuzz_sandbox import Rejected, Trial
from fuzz_use import FILE, NAME, Use, change_file, change_name, corrupt_bytes, logged, used
from PIL import Image
from scipy.io import savemat

from lit_hier.data import ImageDataModule, ImageFiles


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    """Write a PNG's header with any size, and chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), *chunks, _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _thin(width: int, height: int) -> bytes:
    """Write a valid picture whose sides are very unequal."""
    with io.BytesIO() as file:
        Image.new("L", (width, height)).save(file, "PNG")
        return file.getvalue()


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
        "line.png": contents()["line.png"],
        "thin.png": _thin(1, 12_000),
        "long.png": _thin(60_000, 2),
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

    def use(trial: Trial) -> None:
        rng = trial.rng
        name, content = rng.choice(list(whole.items()))
        way = trial.choose("sizes", "sizes", "bytes", "bytes", *FILE)
        if way == "sizes":
            name, content = rng.choice(list(unpacking.items()))
        path = trial.folder / name
        path.write_bytes(content)
        if way == "bytes":
            corrupt_bytes(rng, path)
        elif way in FILE:
            change_file(trial, path)
        (trial.folder / "whole.png").write_bytes(whole["a.png"])
        channels, size = rng.choice((1, 3)), rng.choice((8, 256))
        with used(trial), logged() as log:
            found = ImageDataModule(ImageFiles("."), size=size, channels=channels,
                                    num_per_class=None)  # fmt: skip
            read = found._splits["predict"][torch.arange(len(found.held_out))]
            skipped = [line for line in log.lines if "data: skipped " in line]
            assert len(read["x"]) + len(skipped) == len(found.held_out)
            assert read["x"].isfinite().all()
            if skipped:
                raise Rejected(skipped[0])

    return use


NAMES = (
    *("a", "cat", "n01440764", "ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002_n01440764"),
    *("two\nlines", "\x1b[31mred", "ünïcödé", "name with, comma", '"quoted"', " ", "..a"),
    *(".hidden", "-1", "0", "1", "99999999999", "x" * 200, "file:", "C:", "a\\b", "%s", "..."),
    b"\xff\xfe".decode(errors="surrogateescape"),
)
ENDINGS = (".png", ".PNG", ".JPEG", ".jpg", ".txt", "", ".png.png", ".pt", ".zip", ".eps")


def folders(source: Path) -> Use:
    """Layouts of folders of images, with strange names, links and files."""
    whole = list(pictures().values())

    def use(trial: Trial) -> None:
        rng = trial.rng
        root = trial.folder / "images"
        (root / "cat").mkdir(parents=True)
        (root / "cat/whole.png").write_bytes(whole[0])
        way = trial.choose("names", *FILE, *NAME)
        inner = rng.sample(NAMES, rng.randrange(4)) if way == "names" else ["cat", "dog"]
        for name in inner if trial.hostile else []:
            (root / name).mkdir(exist_ok=True)
            for _ in range(rng.randrange(4)):
                stem = rng.choice(NAMES) if way == "names" else rng.choice("abc")
                path = root / name / f"{stem}{rng.choice(ENDINGS)}"
                if os.path.lexists(path):
                    continue
                path.write_bytes(rng.choice(whole))
                if way in FILE:
                    change_file(trial, path)
        given = "images"
        if way in FILE and rng.random() < 0.4:
            given = change_file(trial, rng.choice((root, root / "cat")))
            given = given if given.count("/") == 0 else "images"
        elif way in NAME:
            given = change_name(trial)
        with used(trial), logged() as log:
            data = ImageDataModule(ImageFiles(given), size=8, num_per_class=None)
            for start in range(0, min(len(data.held_out), 9), 3):
                data._splits["predict"][torch.arange(start, min(start + 3, len(data.held_out)))]
            data.fingerprint("predict")
            if skipped := [line for line in log.lines if "data: skipped " in line]:
                raise Rejected(skipped[0])

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
    savemat(source / "large.mat", {"synsets": np.zeros(10**8, dtype=np.uint8)},
            do_compression=True)  # fmt: skip
    truth = "ILSVRC2012_validation_ground_truth.txt"
    (source / "devkit" / truth).write_text("1\n2\n3\n3\n2\n1\n")
    tables = {
        "wnids.csv": "".join(f"{name},{wnids[k % 3]}\n" for k, name in enumerate(names)),
        "numbers.csv": "".join(f"{name},{k % 3}\n" for k, name in enumerate(names)),
        "kaggle.csv": "ImageId,PredictionString\n"
        + "".join(f"{name[:-5]},n01440764 1 2 3 4\n" for name in names),
    }

    def use(trial: Trial) -> None:
        rng = trial.rng
        shutil.copytree(source / "devkit", trial.folder / "devkit")
        for name, text in tables.items():
            (trial.folder / name).write_text(text)
        way = trial.choose("cells", "cells", "sizes", "bytes", "bytes", *FILE, *NAME)
        given = rng.choice(("devkit", f"devkit/{truth}", *tables))
        path = trial.folder / given
        if path.is_dir():
            path /= rng.choice((truth, "meta.mat"))
        if way == "cells":
            cells = (b",", b"\n", b'"', b"../../x.png", b"\x1b", b"-1", b"1e9", b"\0", b"9" * 400,
                     str(trial.outside).encode(), b"x" * 10**6)  # fmt: skip
            content = path.read_bytes()
            where = rng.randrange(len(content) + 1)
            path.write_bytes(content[:where] + rng.choice(cells) + content[where:])
        elif way == "sizes":
            if path.suffix == ".mat":
                shutil.copy(source / "large.mat", path)
            else:
                line = rng.choice((f"{names[0]},1\n", "1\n", ",\n", f"{'x' * 10**5},1\n"))
                path.write_text(line * (3 * 10**7 // len(line)))
        elif way == "bytes":
            corrupt_bytes(rng, path)
        elif way in NAME:
            given = change_name(trial, path.suffix)
        elif trial.hostile:
            change_file(trial, path)
        with used(trial):
            ImageFiles(str(source / "images"), given)

    return use
