"""The classes of ImageNet, and the labels in its development kit."""

import re
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from scipy.io import loadmat

from lit_hier.errors import InputError
from lit_hier.io.safe_read import check_file, read_file

WNID: Final = re.compile(r"n\d{8}")  # WordNet's identifier of a class
_TRUTH: Final = "ILSVRC2012_validation_ground_truth.txt"
_NUMBER: Final = re.compile(r"(?:^|_)(\d{8})(?:_|$)")  # number of an image in its file name
_HINT: Final = f"give the unpacked devkit, with meta.mat and {_TRUTH}, or a CSV"


@cache
def imagenet_classes() -> dict[str, int]:
    """Return the label of each of the 1000 classes by wnid, as in torchvision and timm."""
    from timm.data.imagenet_info import ImageNetInfo  # takes seconds; only ImageNet needs it

    return {wnid: number for number, wnid in enumerate(ImageNetInfo().label_names())}


def read_text(path: Path) -> str:
    """Read a file of labels.

    Raises:
        InputError: The file cannot be read, is not UTF-8 text or is empty.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"labels: cannot read {path}: {error.strerror}; {_HINT}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"labels: {path} is not UTF-8 text; {_HINT}") from error
    if not text.strip():
        raise InputError(f"labels: {path} is empty; {_HINT}")
    return text


def is_devkit(path: Path) -> bool:
    """Return whether a path is the development kit or its ground truth, not a CSV."""
    return path.is_dir() or path.suffix == ".txt"


def read_devkit(path: Path, names: list[str]) -> dict[str, str]:
    """Read the wnid of each validation image.

    Args:
        path: The folder of the devkit, its subfolder with `meta.mat` and the ground truth, or the
            file of the ground truth.
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
    lines = read_text(truth).split()
    wnids = _read_meta(folder / "meta.mat")
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
                f"labels: line {number} of {truth} is {lines[number - 1]!r}, which is not an"
                " ILSVRC2012_ID of meta.mat; give the devkit's own file"
            )
    return labels


def _read_meta(path: Path) -> dict[str, str]:
    """Read the wnid of each ILSVRC2012_ID from the devkit's table of classes."""
    try:
        check_file(path)
        synsets = np.atleast_1d(loadmat(str(path), squeeze_me=True)["synsets"])
        pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        return {str(int(number)): str(wnid) for number, wnid in pairs}
    except OSError as error:
        raise InputError(f"labels: cannot read {path}; {_HINT}") from error
    except Exception as error:  # scipy may raise anything on a malformed file
        raise InputError(f"labels: {path} is not ImageNet's meta.mat; {_HINT}") from error
