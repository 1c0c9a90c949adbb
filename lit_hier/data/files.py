"""Folders of images in common layouts, with or without labels."""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image
from torchvision.datasets import VisionDataset

from lit_hier.data.classes import WNID, imagenet_classes, normalize, order_classes
from lit_hier.data.imagenet import LABELS_HINT, is_devkit, read_devkit
from lit_hier.data.levels import depth_of, find_max_level, open_image
from lit_hier.errors import InputError
from lit_hier.io.safe_read import hash_file, open_regular, read_file, reading

_SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
_WNID_PART: Final = re.compile(rf"(?:^|_)({WNID.pattern})(?=[_.])")  # in a file name
_BOX: Final = 4  # numbers of a box
_MAX_TABLE: Final = 2**27  # bytes of a table
_MAX_LINE: Final = 2**16  # characters of a line


class ImageFiles(VisionDataset):
    """A folder of images in one of several layouts.

    - A folder for each class.
    - Files with a wnid in their names, such as `n01440764_293.JPEG` or
      `ILSVRC2012_val_00000293_n01440764.JPEG`.
    - Other files, with `labels`: ImageNet's development kit (its folder, the subfolder `data`, or
      the ground truth next to `meta.mat`), a text file with one wnid per line, in the order of the
      numbers in the file names, or a table with two columns, file name and class, separated by
      commas, tabs or blanks. File names are relative to the root, or without their folder, with or
      without extension; a class is a wnid, a number or any name. A header is optional; Kaggle's
      `ImageId,PredictionString` and the boxes of Tiny-ImageNet's annotations are supported.
    - Other files, without labels: their class is unknown, -1.

    Classes have the same order in every layout, see `lit_hier.data.classes`: wnids of ImageNet are
    ImageNet's 1000 classes, whole numbers are labels themselves, and other names are sorted. Names
    in other Unicode forms are equal.

    Files are sorted by relative path. Hidden files and files with other extensions are skipped.
    Symbolic links are followed, but each folder is visited once. The orientation in EXIF data is
    ignored, see `lit_hier.data.preprocessing`.

    Args:
        root: The folder.
        labels: Path of the labels, unless folders or file names contain them.
        max_level: The level of white in all images of more than 8 bits: 65535, 4095, 255, or any
            number for floating-point levels. Omit it if one of them has a level in the upper half
            of 16 bits, which makes it 65535, or if all images have 8 bits.

    Attributes:
        names: Paths of the files, relative to the root.
        targets: Label of each file.
        classes: Names of the classes, by label; empty if unknown.
        max_level: As given or found; `None` if all images have 8 bits.

    Raises:
        InputError: There are no images, the labels do not match them, a class has no image, or
            `max_level` must be given.
    """

    def __init__(
        self, root: str, labels: str | None = None, max_level: float | None = None
    ) -> None:
        super().__init__(root)
        self.names = _find_images(Path(self.root))
        class_of, self.classes = _find_classes(Path(self.root), self.names, labels)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.targets = [numbers[class_of[name]] if class_of else -1 for name in self.names]
        self.max_level = find_max_level(Path(self.root), self.names, max_level)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Read an image, the first frame of an animation, and return it with its label.

        Raises:
            Exception: The file cannot be read; PIL raises exceptions of many types.
        """
        with open_regular(Path(self.root, self.names[index])) as file:
            image = open_image(file)
            is_deep = bool(depth_of(image))
            image.load()
        if is_deep and self.max_level is None:  # found only now, for another suffix
            raise InputError(
                f"max_level: {self.root!s:.60}/{self.names[index]:.60} has more than 8 bits; give"
                " max_level, the level of white, such as 65535"
            )
        return image, self.targets[index]

    def name(self, index: int) -> str:
        """Return the path of a file, relative to the root."""
        return self.names[index]

    def fingerprint(self, selected: Iterable[int]) -> str:
        """Hash, in hexadecimal, the names, contents and labels of files, reading all of them."""
        digest, indices = hashlib.sha256(), list(selected)
        if self.max_level is not None:
            digest.update(f"{self.max_level:g}".encode())
        with ThreadPoolExecutor() as threads:
            contents = threads.map(self._hash, indices)
            for index, content in zip(indices, contents, strict=True):
                line = f"{self.names[index]}\0{content} {self.targets[index]}\0"
                digest.update(os.fsencode(line))
        return digest.hexdigest()

    def _hash(self, index: int) -> str:
        try:
            return hash_file(Path(self.root, self.names[index]))
        except OSError:
            return "unreadable"


def _find_images(root: Path) -> list[str]:
    """List the images below a folder, sorted by relative path."""
    if not root.is_dir():
        raise InputError(f"root: there is no folder {root}; give a folder with images")
    images, visited = [], {_identity(root)}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        # Symbolic links may form cycles; each folder is visited once.
        candidates = [
            (name, _identity(Path(folder, name))) for name in sorted(subfolders) if name[0] != "."
        ]
        subfolders[:] = [
            name
            for name, identity in candidates
            if identity is not None and identity not in visited
        ]
        visited |= {identity for _, identity in candidates}
        parent = Path(folder).relative_to(root).as_posix()
        images += [
            name if parent == "." else f"{parent}/{name}"
            for name in files
            if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
        ]
    if not images:
        raise InputError(
            f"root: {root} has no images; give a folder with files in {', '.join(_SUFFIXES)}"
        )
    return sorted(images)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of a folder; `None` if it is inaccessible."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _find_classes(
    root: Path, names: list[str], labels: str | None
) -> tuple[dict[str, str], list[str]]:
    """Return the class of each file, and the ordered classes; both empty if unknown."""
    if labels is not None:
        path = Path(labels).expanduser()
        if is_devkit(path):
            return _order(read_devkit(path, names), "labels")
        class_of = _read_table(path, names)
        # Like folders, a table may have wnids beyond ImageNet's 1000, if it has nothing else.
        return _order(class_of, "labels", all(map(WNID.fullmatch, class_of.values())))
    top_level = [name for name in names if "/" not in name]
    if not top_level:
        return _read_folders(root, names)
    if len(top_level) < len(names):
        nested = next(name for name in names if "/" in name)
        raise InputError(
            f"root: {root} has images in folders, such as {nested}, and outside them, such as"
            f" {top_level[0]}; move either, or give labels"
        )
    class_of = {name: match.group(1) for name in names if (match := _WNID_PART.search(name))}
    unlabeled = next((name for name in names if name not in class_of), None)
    if unlabeled is None:
        return _order(class_of, "root")
    if class_of:
        raise InputError(
            f"root: {next(iter(class_of))} has a wnid in its name, but {unlabeled} does not;"
            " rename it, or give labels"
        )
    if unlabeled.startswith("ILSVRC2012_val_"):
        raise InputError(
            f"labels: {root} has ImageNet's validation images without classes; give the devkit's"
            " folder, or a CSV with columns file name, class"
        )
    return {}, []


def _order(
    class_of: dict[str, str], argument: str, any_wnid: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return the class of each file, and the classes in order.

    Raises:
        InputError: Some are wnids, but not all are among ImageNet's 1000, unless `any_wnid`.
    """
    class_of = {name: normalize(class_name) for name, class_name in class_of.items()}
    names = set(class_of.values())
    wnids = not any_wnid and any(map(WNID.fullmatch, names))
    if wnids and (unknown := names - imagenet_classes().keys()):
        name = next(name for name, class_name in class_of.items() if class_name in unknown)
        raise InputError(
            f"{argument}: the class of {name} is {class_of[name]!r:.60}, which is not one of"
            " ImageNet's 1000 wnids, although other classes are; correct it"
        )
    return class_of, order_classes(names, argument)


def _read_folders(root: Path, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the folder of each file as its class; raise if a folder has no images."""
    class_of = {name: normalize(name.partition("/")[0]) for name in names}
    classes = set(class_of.values())
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        name = normalize(entry.name)
        if entry.is_dir() and name not in classes and not name.startswith("."):
            raise InputError(
                f"root: class {name} of {root} has no images; fill its folder or remove it"
            )
    return class_of, order_classes(classes, "root")


def _read_table(path: Path, names: list[str]) -> dict[str, str]:
    """Read the class of each file from a table."""
    known = _list_spellings(names)
    kaggle = False
    class_of: dict[str, str] = {}
    for line, row in enumerate(_read_rows(path), start=1):
        if line == 1:  # Kaggle's column has the class, then boxes
            kaggle = row == ["ImageId", "PredictionString"]
        where = f"labels: line {line} of {path}"
        name, *rest = (cell.strip() for cell in row or [""])
        image = known.get(name) or known.get(normalize(name))
        if not row or (line == 1 and not image and not name.lower().endswith(_SUFFIXES)):
            continue  # an empty line, or a header
        if len(rest) == 1 + _BOX and all(map(str.isdecimal, rest[1:])):
            rest = rest[:1]  # Tiny-ImageNet's annotations have a box
        if len(rest) != 1 or not rest[0]:
            shown = ",".join(row[:9])
            raise InputError(f"{where} is {shown!r:.60}; give two columns, file name, class")
        if not image:
            raise InputError(
                f"{where} has {name!r:.60}, which is not in root, or more than one"
                " image of it; correct the line"
            )
        if image in class_of:
            raise InputError(f"{where} repeats {name!r:.60}; keep one line per image")
        class_of[image] = rest[0].split()[0] if kaggle else rest[0]
    if missing := next((name for name in names if name not in class_of), None):
        raise InputError(f"labels: {path} has no line for {missing}; add it, or remove the image")
    return class_of


def _list_spellings(names: list[str]) -> dict[str, str]:
    """Map what a table may call an image to its path; what several images share is left out.

    A path comes before one without extension, and that before one without folder; in the Unicode
    form of the file before another one.
    """
    spellings: dict[str, str] = {}
    paths = [PurePosixPath(name) for name in names]
    changes = (str,) if all(map(str.isascii, names)) else (str, normalize)
    for spell in (
        PurePosixPath.as_posix,
        lambda path: path.with_suffix("").as_posix(),
        lambda path: path.name,
        lambda path: path.stem,
    ):
        for change in changes:
            found: dict[str, str] = {}
            shared = set()
            for name, path in zip(names, paths, strict=True):
                spelling = change(spell(path))
                shared |= {spelling} & found.keys()
                found[spelling] = name
            spellings = {k: v for k, v in found.items() if k not in shared} | spellings
    return spellings


def _read_rows(path: Path) -> Iterator[list[str]]:
    """Read the rows of a table one by one: all of them would take many times the file's size.

    The first line tells what separates its columns: tabs, else commas, else the last blank.
    """
    with reading("labels", path, LABELS_HINT):
        content = read_file(path, _MAX_TABLE)
        if not content.strip():
            raise InputError(f"labels: {path} is empty; {LABELS_HINT}")
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
        try:
            lines = _short_lines(text, path)
            first = "\n"
            while first and not first.strip():
                first = next(lines, "")
                if not first.strip():
                    yield []
            lines = chain((first,), lines)
            if "\t" in first or "," in first:
                comma = "\t" if "\t" in first else ","
                yield from csv.reader(lines, delimiter=comma, skipinitialspace=True, strict=True)
            else:
                yield from (line.rsplit(maxsplit=1) for line in lines)
        except UnicodeDecodeError as error:
            raise InputError(f"labels: {path} is not UTF-8 text; {LABELS_HINT}") from error
        except csv.Error as error:
            raise InputError(
                f"labels: {path} is not a CSV: {error}; give columns file name, class"
            ) from error


def _short_lines(text: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(text, start=1):
        if len(line) > _MAX_LINE:
            raise InputError(
                f"labels: line {number} of {path} has more than {_MAX_LINE} characters; give two"
                " columns, file name, class"
            )
        yield line
