"""Which images of a data set are looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_hier.errors import InputError


def read_labels(dataset: Any, argument: str) -> NDArray[np.int64]:
    """Read the class of each image, -1 if unknown, without decoding one; shape (N,).

    Args:
        dataset: Has them as `targets`, `labels` or `_labels`, as those of torchvision do.
        argument: The user's name for it, for the error's message.

    Raises:
        InputError: It has none of these, or not one integer per image.
    """
    kind = type(dataset).__name__
    for name in ("targets", "labels", "_labels"):
        if (found := getattr(dataset, name, None)) is not None:
            label = np.asarray(found)
            if label.shape != (len(dataset),) or label.dtype.kind not in "iu" or not len(label):
                raise InputError(
                    f"{argument}: {kind} has {len(dataset)} images, but {name} of shape"
                    f" {label.shape} and type {label.dtype}; take a data set of images that has"
                    " one class for each"
                )
            return label.astype(np.int64)
    raise InputError(
        f"{argument}: {kind} does not say the classes of its images (`targets`, `labels`); take"
        " another data set, or ImageFiles"
    )


def choose(
    label: NDArray[np.int64], num: int | None, seed: int, classes: Sequence[str], argument: str
) -> NDArray[np.int64]:
    """Choose equally many images of each class that there is, in the data set's order.

    Args:
        label: Class of each image, -1 if unknown, shape (N,).
        num: Images per class; all, if `None`. A larger number keeps those of a smaller one.
        seed: A class's images are shuffled by (seed, class).
        classes: Names, for the error's message.
        argument: The user's name for `num`, likewise.

    Raises:
        InputError: A class has fewer images.
    """
    if num is None:
        return np.arange(len(label))
    chosen = []
    for number in np.unique(label).tolist():
        members = np.flatnonzero(label == number)
        if len(members) < num:
            name = classes[number] if 0 <= number < len(classes) else number
            raise InputError(
                f"{argument} is {num}, but class {name} has only {len(members)} images; ask for"
                " fewer, or for all with null"
            )
        generator = np.random.default_rng([seed, number % 2**32])
        chosen.append(generator.permutation(members)[:num])
    return np.sort(np.concatenate(chosen))
