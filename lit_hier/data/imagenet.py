"""ImageNet's classes, and the labels that its development kit brings along."""

import re
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from scipy.io import loadmat

from lit_hier.errors import InputError
from lit_hier.io.safe_read import check_file, read_file

WNID: Final = re.compile(r"n\d{8}")  # a class as WordNet numbers it
_TRUTH: Final = "ILSVRC2012_validation_ground_truth.txt"
_NUMBER: Final = re.compile(r"(?:^|_)(\d{8})(?:_|$)")  # of an image, in its file's name
_HINT: Final = f"give the unpacked devkit, with meta.mat and {_TRUTH}, or a CSV"


@cache
def imagenet_classes() -> dict[str, int]:
    """The 1000 classes, by wnid; their numbers are those of torchvision's and timm's logits."""
    from timm.data.imagenet_info import ImageNetInfo  # takes seconds, and only ImageNet needs it

    return {wnid: number for number, wnid in enumerate(ImageNetInfo().label_names())}


def read_text(path: Path) -> str:
    """Read a file of labels.

    Raises:
        InputError: It cannot be read, is no text or empty.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"labels: cannot read {path}: {error.strerror}; {_HINT}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"labels: {path} is no UTF-8 text; {_HINT}") from error
    if not text.strip():
        raise InputError(f"labels: {path} is empty; {_HINT}")
    return text


def is_devkit(path: Path) -> bool:
    """Tell the development kit, or its ground truth, from a CSV."""
    return path.is_dir() or path.suffix == ".txt"


def read_devkit(path: Path, names: list[str]) -> dict[str, str]:
    """Read the wnid of each validation image.

    Args:
        path: The devkit's folder, the one in it that holds `meta.mat` and the ground truth, or
            the ground truth itself.
        names: File names with the image's number, such as `ILSVRC2012_val_00000293.JPEG`.

    Raises:
        InputError: A file is missing or broken, or the ground truth is of other images.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / "data").is_dir():
        folder = folder / "data"
    truth = folder / _TRUTH if path.is_dir() else path
    lines = read_text(truth).split()
    wnids = _read_meta(folder / "meta.mat")
    if len(lines) != len(names):
        raise InputError(
            f"labels: {truth} is of {len(lines)} images, but root has {len(names)};"
            " give both whole, or a CSV with the labels of these images"
        )
    found = {}
    for name in names:
        number = _NUMBER.search(Path(name).stem)
        place = int(number.group(1)) if number else 0
        if not 1 <= place <= len(lines):
            raise InputError(
                f"labels: {truth} has no line for {name}; names must number the images from"
                f" 00000001 to {len(lines):08}"
            )
        found[name] = wnids.get(lines[place - 1], "")
        if not found[name]:
            raise InputError(
                f"labels: line {place} of {truth} is {lines[place - 1]!r}, which is no"
                " ILSVRC2012_ID of meta.mat; give the devkit's own file"
            )
    return found


def _read_meta(path: Path) -> dict[str, str]:
    """Read the devkit's table of classes: the wnid of each ILSVRC2012_ID."""
    try:
        check_file(path)
        synsets = np.atleast_1d(loadmat(str(path), squeeze_me=True)["synsets"])
        pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        return {str(int(number)): str(wnid) for number, wnid in pairs}
    except OSError as error:
        raise InputError(f"labels: cannot read {path}; {_HINT}") from error
    except Exception as error:  # a broken file may make scipy stumble anywhere
        raise InputError(f"labels: {path} is no meta.mat of ImageNet; {_HINT}") from error
