"""Folders of images, in the layouts that people have."""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image, UnidentifiedImageError
from torchvision.datasets import VisionDataset

from lit_hier.data.imagenet import WNID, imagenet_classes, is_devkit, read_devkit, read_text
from lit_hier.errors import InputError
from lit_hier.io.safe_read import check_file

_SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
# What these hold; PIL would also run programs, on PostScript of any name.
_FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_WNID_PART: Final = re.compile(rf"(?:^|_)({WNID.pattern})(?=[_.])")  # of a file's name
_MOST: Final = 100_000  # classes that a CSV may number


class ImageFiles(VisionDataset):
    """A folder of images.

    Which layout it has is seen from it:

    - Folders of classes. Classes are sorted by name; if all names are wnids of ImageNet, they are
      ImageNet's 1000.
    - Files whose names have a wnid, as in `n01440764_293.JPEG` or
      `ILSVRC2012_val_00000293_n01440764.JPEG`.
    - Any other files, with `labels`: ImageNet's development kit (its folder, the `data` in it, or
      the ground truth beside `meta.mat`), or a CSV of two columns, file name and class. The names
      are relative to the root, with or without extension; a class is a wnid, a number or any
      name. A header may be there; Kaggle's `ImageId,PredictionString` is known.
    - Any other files, without labels: of no known class, -1.

    Files are in the order of their relative paths. Hidden ones, and those that are no images by
    extension, are passed over. Links are followed; a folder that they reach again is not.

    Args:
        root: The folder.
        labels: Where the labels are, if not in names.

    Attributes:
        names: Paths of the files, relative to the root.
        targets: The class of each.
        classes: Their names; empty if there are none.

    Raises:
        InputError: There are no images, labels do not fit them, or a class has none.
    """

    def __init__(self, root: str, labels: str | None = None) -> None:
        super().__init__(root)
        self.names = _find_images(Path(self.root))
        found, self.classes = _find_classes(Path(self.root), self.names, labels)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.targets = [numbers[found[name]] if found else -1 for name in self.names]

    def __len__(self) -> int:
        """Files."""
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Give an image, of an animation the first one, and its class.

        Raises:
            Exception: The file cannot be read, of whatever kind PIL raises.
        """
        path = Path(self.root, self.names[index])
        check_file(path)
        with path.open("rb") as file:
            try:
                image = Image.open(file, formats=_FORMATS)
            except UnidentifiedImageError:
                raise ValueError("it is no image of a known format") from None
            image.load()
        return image, self.targets[index]

    def name(self, index: int) -> str:
        """Give a file's path, relative to the root."""
        return self.names[index]

    def fingerprint(self, chosen: Iterable[int]) -> str:
        """Hash what tells files apart: names, sizes, times of last change and classes; hex."""
        digest = hashlib.sha256()
        for index in chosen:
            try:
                status = Path(self.root, self.names[index]).stat()
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                stamp = "gone"
            digest.update(os.fsencode(f"{self.names[index]}\0{stamp} {self.targets[index]}\0"))
        return digest.hexdigest()


def _find_images(root: Path) -> list[str]:
    """List the images below a folder, sorted by relative path."""
    if not root.is_dir():
        raise InputError(f"root: there is no folder {root}; give one that holds images")
    found, seen = [], {_identity(root)}
    for folder, inner, files in os.walk(root, followlinks=True):
        # Links may lead anywhere, in circles too; a folder is looked into once.
        others = [
            (name, _identity(Path(folder, name))) for name in sorted(inner) if name[0] != "."
        ]
        inner[:] = [name for name, place in others if place is not None and place not in seen]
        seen |= {place for _, place in others}
        place = Path(folder).relative_to(root).as_posix()
        found += [
            name if place == "." else f"{place}/{name}"
            for name in files
            if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        raise InputError(f"root: {root} holds no images; they end in {', '.join(_SUFFIXES)}")
    return sorted(found)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tell a folder from others, under whatever name; None if it cannot be reached."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _find_classes(
    root: Path, names: list[str], labels: str | None
) -> tuple[dict[str, str], list[str]]:
    """Find the class of each file, and the classes in order; nothing if there are none."""
    if labels is not None:
        path = Path(labels).expanduser()
        found = read_devkit(path, names) if is_devkit(path) else _read_table(path, names)
        return found, _order_classes(found, "labels")
    loose = [name for name in names if "/" not in name]
    if not loose:
        return _read_folders(root, names)
    if len(loose) < len(names):
        inner = next(name for name in names if "/" in name)
        raise InputError(
            f"root: {root} holds images in folders, as {inner}, and outside, as {loose[0]}; keep"
            " either, or give labels"
        )
    found = {name: match.group(1) for name in names if (match := _WNID_PART.search(name))}
    bare = next((name for name in names if name not in found), None)
    if bare is None:
        return found, _order_classes(found, "root")
    if found:
        raise InputError(
            f"root: {next(iter(found))} has a wnid in its name, but {bare} has none; rename it,"
            " or give labels"
        )
    if bare.startswith("ILSVRC2012_val_"):
        raise InputError(
            f"labels: {root} holds ImageNet's validation images without classes; give the devkit's"
            " folder, or a CSV of file name, class"
        )
    return {}, []


def _read_folders(root: Path, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take the folders' names as classes; all have images."""
    found = {name: name.partition("/")[0] for name in names}
    classes = sorted(set(found.values()))
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name not in classes and not entry.name.startswith("."):
            raise InputError(
                f"root: class {entry.name} of {root} has no images; fill its folder or remove it"
            )
    if all(map(WNID.fullmatch, classes)) and imagenet_classes().keys() >= set(classes):
        return found, list(imagenet_classes())
    return found, classes


def _read_table(path: Path, names: list[str]) -> dict[str, str]:
    """Read a CSV of file names and classes."""
    try:
        file = io.StringIO(read_text(path), newline="")
        rows = list(csv.reader(file, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"labels: {path} is no CSV: {error}; give file name, class") from error
    known = {PurePosixPath(name).with_suffix("").as_posix(): name for name in names}
    known |= {name: name for name in names}
    kaggle = rows[0] == ["ImageId", "PredictionString"]  # class and boxes share a column
    found: dict[str, str] = {}
    for line, row in enumerate(rows, start=1):
        where = f"labels: line {line} of {path}"
        name, *rest = (cell.strip() for cell in row or [""])
        if not row or (line == 1 and name not in known and not name.lower().endswith(_SUFFIXES)):
            continue  # an empty line, or a header
        if len(rest) != 1 or not rest[0]:
            raise InputError(f"{where} is {','.join(row)!r}; give two columns, file name, class")
        if name not in known:
            raise InputError(f"{where} is of {name!r}, which is not in root; remove the line")
        if known[name] in found:
            raise InputError(f"{where} gives {name!r} a class once more; keep one line")
        found[known[name]] = rest[0].split()[0] if kaggle else rest[0]
    if missing := next((name for name in names if name not in found), None):
        raise InputError(f"labels: {path} has no line for {missing}; add it, or remove the image")
    return found


def _order_classes(found: dict[str, str], argument: str) -> list[str]:
    """Put classes in order: ImageNet's, or as they are numbered, or else sorted by name."""
    classes = sorted(set(found.values()))
    if any(map(WNID.fullmatch, classes)):
        known = imagenet_classes()
        if strange := next((file for file, name in found.items() if name not in known), None):
            raise InputError(
                f"{argument}: the class of {strange} is {found[strange]!r}, none of ImageNet's"
                " 1000 wnids as others are; correct it"
            )
        return list(known)
    if not all(re.fullmatch(r"-?\d+", name) for name in classes):
        return classes
    numbers = [int(name) for name in classes]
    if min(numbers) < 0 or max(numbers) > _MOST or {str(n) for n in numbers} != set(classes):
        raise InputError(
            f"{argument}: classes are numbered {min(numbers)} to {max(numbers)}; number them from"
            f" 0 to at most {_MOST}, without leading zeros"
        )
    return [str(number) for number in range(max(numbers) + 1)]
