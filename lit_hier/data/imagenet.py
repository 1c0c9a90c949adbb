"""The labels in ImageNet's development kit."""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from scipy.io import loadmat

from lit_hier.data.classes import WNID
from lit_hier.errors import InputError
from lit_hier.io.safe_read import open_regular, read_file, reading

_TRUTH: Final = "ILSVRC2012_validation_ground_truth.txt"
_NUMBER: Final = re.compile(r"(?:^|_)(\d{8})(?:_|$)")  # number of an image in its file name
LABELS_HINT: Final = f"give the unpacked devkit, with meta.mat and {_TRUTH}, or a CSV"
"""What to give as labels."""
_MAX_KIT: Final = 2**24  # bytes of a file of the development kit
_MAX_START: Final = 2**12  # bytes that tell how many columns a text file has
_MAX_META: Final = 2**25  # bytes of the table of classes, decompressed
_HEADER: Final = 128  # bytes of a MATLAB file before its elements
_COMPRESSED: Final = 15  # type of an element


def is_devkit(path: Path) -> bool:
    """Return whether a path is the development kit or a text file of one column, not a table."""
    if path.is_dir():
        return True
    if path.suffix != ".txt":
        return False
    with reading("labels", path, LABELS_HINT), open_regular(path) as file:
        lines = file.read(_MAX_START).decode("utf-8-sig", errors="replace").splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    return not re.search(r"[\s,]", first)


def read_devkit(path: Path, names: list[str]) -> dict[str, str]:
    """Read the wnid of each validation image.

    Args:
        path: The folder of the devkit, its subfolder with `meta.mat` and the ground truth, or the
            file of the ground truth, whose lines may also be wnids instead of IDs of `meta.mat`.
        names: File names with the number of the image, such as `ILSVRC2012_val_00000293.JPEG`.

    Returns:
        The wnid of each image, by file name.

    Raises:
        InputError: A file is missing or malformed, or the ground truth does not match the images.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / "data").is_dir():
        folder = folder / "data"
    truth = folder / _TRUTH if path.is_dir() else path
    with reading("labels", truth, LABELS_HINT):
        lines = read_file(truth, _MAX_KIT).decode("utf-8-sig").split()
    direct = bool(lines) and all(map(WNID.fullmatch, lines))
    wnids = dict(zip(lines, lines, strict=True)) if direct else _read_meta(folder / "meta.mat")
    if len(lines) != len(names):
        raise InputError(
            f"labels: {truth} has {len(lines)} images, but root has {len(names)};"
            " give the complete set, or a CSV with the labels of these images"
        )
    labels = {}
    for name in names:
        match = _NUMBER.search(Path(name).stem)
        number = int(match.group(1)) if match else 0
        if not 1 <= number <= len(lines):
            raise InputError(
                f"labels: {truth} has no line for {name}; names must number the images from"
                f" 00000001 to {len(lines):08}"
            )
        labels[name] = wnids.get(lines[number - 1], "")
        if not labels[name]:
            raise InputError(
                f"labels: line {number} of {truth} is {lines[number - 1]!r:.60}, which is not an"
                " ILSVRC2012_ID of meta.mat; give the devkit's own file"
            )
    return labels


def _read_meta(path: Path) -> dict[str, str]:
    """Read the wnid of each ILSVRC2012_ID from the devkit's table of classes."""
    with reading("labels", path, LABELS_HINT):
        content = _decompress(read_file(path, _MAX_KIT))
        try:
            synsets = loadmat(content, squeeze_me=True, variable_names=["synsets"])["synsets"]
            synsets = np.atleast_1d(synsets)
            pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
            return {str(int(number)): str(wnid) for number, wnid in pairs}
        except Exception as error:  # scipy may raise anything on a malformed file
            raise InputError(
                f"labels: {path} is not ImageNet's meta.mat; {LABELS_HINT}"
            ) from error


def _decompress(content: bytes) -> io.BytesIO:
    """Decompress the elements of a MATLAB file, up to a limit that scipy does not have.

    Raises:
        ValueError: It is larger, or malformed.
    """
    order = ">" if content[_HEADER - 2 : _HEADER] == b"MI" else "<"
    parts, size, start = [content[:_HEADER]], 0, _HEADER
    while start + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, start)
        end = start + 8 + length
        element = content[start:end]
        if kind == _COMPRESSED:
            element = zlib.decompressobj().decompress(element[8:], _MAX_META - size + 1)
        parts.append(element)
        size += len(element)
        if size > _MAX_META:
            raise ValueError("too large")
        start = end
    return io.BytesIO(b"".join(parts))
