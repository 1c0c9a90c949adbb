"""The order of classes, which is one rule for folders, file names and tables of labels.

- If all names are among ImageNet's 1000 wnids, the classes are ImageNet's, in its order.
- If all names are whole numbers, they are the labels: class 10 has label 10, and all numbers from
  0 to the largest count as classes, with or without images.
- Other names are sorted by code point, in Unicode's composed form (NFC).

A data set of torchvision keeps its own labels; where it has both wnids and words, as `ImageNet`
has, its classes are named by wnids. A network's logit k belongs to the class of label k.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from lit_hier.errors import InputError

WNID: Final = re.compile(r"n[0-9]{8}")  # WordNet's identifier of a class
_NUMBER: Final = re.compile(r"-?[0-9]+")
_MAX_LABEL: Final = 100_000  # largest class number


@cache
def imagenet_classes() -> dict[str, int]:
    """Return the label of each of the 1000 classes by wnid, as in torchvision and timm."""
    from timm.data.imagenet_info import ImageNetInfo  # takes seconds; only ImageNet needs it

    return {wnid: number for number, wnid in enumerate(ImageNetInfo().label_names())}


def normalize(name: str) -> str:
    """Return a name in Unicode's composed form: some file systems decompose what users type."""
    return unicodedata.normalize("NFC", name)


def order_classes(names: Iterable[str], argument: str) -> list[str]:
    """List all classes by label.

    Args:
        names: Names of the classes that have images, composed.
        argument: The user's name for their source, for the error message.

    Raises:
        InputError: They are numbers that cannot be labels.
    """
    classes = sorted(set(names))
    if all(map(WNID.fullmatch, classes)) and imagenet_classes().keys() >= set(classes):
        return list(imagenet_classes())
    if not all(map(_NUMBER.fullmatch, classes)):
        return classes
    by_number: dict[int, str] = {}
    for name in classes:
        number = int(name[:10])  # Python limits the digits of an int
        if number in by_number and len(name) <= 10:
            raise InputError(
                f"{argument}: classes {by_number[number]!r:.60} and {name!r:.60} are one number;"
                " give each class one name"
            )
        by_number[number] = name
    low, high = min(by_number), max(by_number)
    if "-" in "".join(classes) or high > _MAX_LABEL or max(map(len, classes)) > 10:
        raise InputError(
            f"{argument}: classes are numbered {low} to {high}; number them from 0 to at most"
            f" {_MAX_LABEL}, or begin each name with a letter"
        )
    return [by_number.get(number, str(number)) for number in range(high + 1)]


def list_classes(dataset: Any) -> list[str]:
    """List the names of a data set's classes by label; empty if it has none.

    They are its wnids if it has these, as `torchvision.datasets.ImageNet` has: these name the
    leaves of WordNet, and each is one word.
    """
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None) or ()
    return [
        normalize(", ".join(map(str, name)) if isinstance(name, list | tuple) else str(name))
        for name in names
    ]
