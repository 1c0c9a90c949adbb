"""Images of more than 8 bits: which files have them, which level is white, and their upper 8 bits.

A file does not say how much of its 16 bits is used: white may be 255 in one data set, 4095 in
another and 65535 in a third. The level of white is therefore one number per data set.
"""

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from lit_hier.errors import InputError
from lit_hier.io.safe_read import open_regular

FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Formats that are read: on PostScript, PIL runs a program, whatever the suffix."""
_DEEP_SUFFIXES: Final = (".png", ".tif", ".tiff", ".ppm", ".pgm")  # others have 8 bits
_MAX_IMAGE: Final = 2**29  # bytes of an image file
_MAX_PIXELS: Final = 10**8  # of an image, decoded at once
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH: Final = 24  # position of the bits per channel
_WHITE: Final = 0xFFFF  # of 16 bits
_MAX_DECODED: Final = 1000  # files whose levels are read before the range counts as ambiguous
_STRIP: Final = 2**22  # pixels converted at a time

Depth = Literal["", "gray", "color", "float"]


def open_image(file: Any) -> Image.Image:
    """Open an image file, of which PIL reads the header only.

    Raises:
        ValueError: It is too large, or not in a supported format. PIL may raise other exceptions.
    """
    if os.fstat(file.fileno()).st_size > _MAX_IMAGE:
        raise ValueError(f"it has more than {_MAX_IMAGE >> 20} MiB")
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is not an image in a supported format") from None
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels: too many")
    return image


def depth_of(image: Image.Image) -> Depth:
    """Return the kind of an image of more than 8 bits, or an empty text; before it is loaded.

    Of 16-bit color, PIL reads the upper 8 bits only.
    """
    if image.mode[0] in "IF":
        return "float" if image.mode == "F" else "gray"
    for kind, _, _, given in getattr(image, "tile", ()):  # only images from files have it
        arguments = given if isinstance(given, tuple) else (given,)
        deep = any(isinstance(x, str) and x[-4:-1] == ";16" for x in arguments)
        if deep or (kind == "ppm" and arguments[-1] > 255):
            return "color"
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL, on unusual files that it can read
        yield


def find_deep(paths: Iterable[Path]) -> dict[Path, Depth]:
    """Return the files of more than 8 bits, by their headers; unreadable files are left out."""
    found: dict[Path, Depth] = {}
    for path in paths:
        if path.suffix.lower() not in _DEEP_SUFFIXES:
            continue
        try:
            with _quiet(), open_regular(path) as file:
                start = file.read(_PNG_DEPTH + 1)
                if start.startswith(_PNG) and start[_PNG_DEPTH:] != b"\x10":
                    continue
                file.seek(0)
                if depth := depth_of(open_image(file)):
                    found[path] = depth
        except Exception:  # PIL may raise anything; the image will be skipped
            continue
    return found


def find_max_level(root: Path, names: Sequence[str], given: float | None) -> float | None:
    """Find the level of white of a folder's images of more than 8 bits.

    Args:
        root: The folder.
        names: Paths of the images, relative to the root.
        given: The user's level, if any.

    Returns:
        `given`; else 65535 if an image has a level in the upper half of 16 bits, or `None` if no
        image has more than 8 bits.

    Raises:
        InputError: The levels do not tell which one is white, or `given` is not possible.
    """
    if given is not None and not (0 < given < math.inf):
        raise InputError(f"max_level is {given}; give the level of white, above 0")
    deep = find_deep(root / name for name in names)
    if given is not None:
        color = next((path for path, depth in deep.items() if depth == "color"), None)
        if color is not None and given != _WHITE:
            raise InputError(
                f"max_level is {given:g}, but of {color}, in 16-bit color, only the upper 8 bits"
                f" can be read; give {_WHITE}, or convert the images to 8 bits"
            )
        return given
    if not deep:
        return None
    depths = set(deep.values())
    peak = -math.inf
    for path in list(deep)[:_MAX_DECODED]:
        peak = max(peak, _peak_of(path))
        if "float" not in depths and _WHITE // 2 < peak <= _WHITE:
            return _WHITE
    if peak == -math.inf:  # none can be read
        return None
    bits = max(8, math.ceil(math.log2(max(peak, 1) + 1)))
    likely = 1 if "float" in depths and peak <= 1 else 2**bits - 1
    levels = "floating-point levels" if "float" in depths else "more than 8 bits"
    remedy = "convert them to 8 bits, or give max_level: 65535" if "color" in depths else (
        f"give max_level, the level of white, such as {likely}"
        + (f" or {_WHITE}" if likely < _WHITE and "float" not in depths else "")
    )  # fmt: skip
    raise InputError(
        f"max_level: {len(deep)} images of {root!s:.60}, such as {next(iter(deep)).name:.60}, have"
        f" {levels} and reach {peak:g}, which does not tell the level of white; {remedy}"
    )


def _peak_of(path: Path) -> float:
    """Return the highest level of an image; minus infinity if it cannot be read."""
    try:
        with _quiet(), open_regular(path) as file:
            image = open_image(file)
            color = depth_of(image) == "color"
            values = np.asarray(image.convert("RGB") if color else image)  # without transparency
        peak = float(values.max())
    except Exception:  # PIL may raise anything; the image will be skipped
        return -math.inf
    return (peak + 1) * 256 - 1 if color else peak if math.isfinite(peak) else -math.inf


def to_8_bits(image: Image.Image, max_level: float) -> Image.Image:
    """Reduce an image of more than 8 bits to 8; of 16 bits, the upper 8 are kept.

    Args:
        image: Of mode I, I;16 or F.
        max_level: The level that is white.

    Raises:
        ValueError: A level is negative, above `max_level` or not a number.
    """
    reduced = Image.new("L", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        values = np.asarray(image.crop(box))
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= max_level):
            raise ValueError(f"its levels are {low:g} to {high:g}, not 0 to {max_level:g}")
        if image.mode == "F" or max_level % 1:
            levels = np.round(values / max_level * 255).astype(np.uint8)
        else:
            levels = (values.astype(np.int64) * 256 // (int(max_level) + 1)).astype(np.uint8)
        reduced.paste(Image.fromarray(levels), box[:2])
    return reduced
