"""Selection of images from a dataset, by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_hier.errors import InputError


def read_labels(dataset: Any, argument: str) -> NDArray[np.int64]:
    """Return the class of each image without decoding any.

    Args:
        dataset: Has the attribute `targets`, `labels` or `_labels`, like those of torchvision.
        argument: The user's name for the dataset, for the error message.

    Returns:
        Classes, -1 if unknown, shape (N,).

    Raises:
        InputError: The dataset has no such attribute, or it is not one integer per image.
    """
    kind = type(dataset).__name__
    for name in ("targets", "labels", "_labels"):
        if (values := getattr(dataset, name, None)) is not None:
            label = np.asarray(values)
            if label.shape != (len(dataset),) or label.dtype.kind not in "iu" or not len(label):
                raise InputError(
                    f"{argument}: {kind} has {len(dataset)} images, but {name} of shape"
                    f" {label.shape} and type {label.dtype}; give a dataset with one class per"
                    " image"
                )
            return label.astype(np.int64)
    raise InputError(
        f"{argument}: {kind} has no classes of its images (`targets` or `labels`); give another"
        " dataset, or ImageFiles"
    )


def select_per_class(
    label: NDArray[np.int64], num: int | None, seed: int, classes: Sequence[str], argument: str
) -> NDArray[np.int64]:
    """Select the same number of images from each class, in the order of the dataset.

    Args:
        label: Class of each image, -1 if unknown, shape (N,).
        num: Images per class; `None` selects all. A larger number keeps those of a smaller one.
        seed: The images of a class are shuffled by (seed, class).
        classes: Names of the classes, for the error message.
        argument: The user's name for `num`, for the error message.

    Returns:
        Indices of the selected images, ascending, shape (M,).

    Raises:
        InputError: A class has fewer than `num` images.
    """
    if num is None:
        return np.arange(len(label))
    selected = []
    for number in np.unique(label).tolist():
        members = np.flatnonzero(label == number)
        if len(members) < num:
            name = classes[number] if 0 <= number < len(classes) else number
            raise InputError(
                f"{argument} is {num}, but class {name} has only {len(members)} images; give a"
                " smaller number, or null for all images"
            )
        generator = np.random.default_rng([seed, number % 2**32])
        selected.append(generator.permutation(members)[:num])
    return np.sort(np.concatenate(selected))
