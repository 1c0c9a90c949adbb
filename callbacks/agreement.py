"""Whether a network's logits and the classes of the data belong together.

The predictions on a reference set are counted by (half, logit, class). A permutation of the
classes is fitted on each half and judged on the other one: by chance alone it is not better than
the labels.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MAX_ENTRIES: Final = 2**22  # of a half: 2000 classes
_MIN_ODDS: Final = 5.0  # ratio of the odds of being right above which a permutation is reported
_MIN_DEVIATIONS: Final = 4.0  # and the difference, in standard errors
_HASH: Final = 2654435761  # Knuth's multiplicative hash, mod 2^32


def count_predictions(counts: Tensor, predicted: Tensor, label: Tensor, index: Tensor) -> None:
    """Add a batch to the counts of predictions.

    Args:
        counts: int64, shape (2, logits, classes); changed in place.
        predicted: The logit that is the largest, int64, shape (B,).
        label: The class, -1 if unknown, int64, shape (B,).
        index: The sample index, which decides on the half, int64, shape (B,).
    """
    if not counts.numel():
        return
    known = (label >= 0) & (label < counts.shape[2])
    half = (index * _HASH % 2**32) >> 31
    place = (half * counts.shape[1] + predicted) * counts.shape[2] + label
    # A mask as index would wait for a GPU to know its size.
    counts.view(-1).index_add_(0, place.where(known, 0), known.to(counts.dtype))


def empty_counts(num_logits: int, num_classes: int, device: torch.device) -> Tensor:
    """Return counts of predictions, all 0; of no entry if they would take too much memory."""
    fits = 0 < num_logits * num_classes <= _MAX_ENTRIES
    shape = (2, num_logits, num_classes) if fits else (2, 0, 0)
    return torch.zeros(shape, dtype=torch.int64, device=device)


def permuted_accuracy(counts: Tensor) -> float:
    """Return the top-1 accuracy with the best permutation of the other half; NaN for no counts."""
    from scipy.optimize import linear_sum_assignment

    halves: NDArray[np.int64] = counts.cpu().numpy()
    hits = 0
    for fitted, judged in (halves, halves[::-1]):
        hits += int(judged[linear_sum_assignment(fitted, maximize=True)].sum())
    total = int(halves.sum())
    return hits / total if total else math.nan


def accuracy_holds(num_logits: int, num_classes: int, names: Sequence[str]) -> bool:
    """Return whether logit k can be taken as that of label k.

    If their numbers differ that is so only for labels that are numbers themselves, of which some
    may be missing.

    Args:
        num_logits: Number of logits.
        num_classes: Number of classes of the data; 0 if unknown.
        names: Names of these classes, if they have any.
    """
    numbered = all(name.isdecimal() for name in names)
    return num_classes in (0, num_logits) or (numbered and num_logits > num_classes)


def describe_numbers(num_logits: int, num_classes: int, names: Sequence[str]) -> str:
    """Return one line if there are more or fewer logits than classes, else an empty one.

    Args:
        num_logits: As for `accuracy_holds`.
        num_classes: As for `accuracy_holds`.
        names: As for `accuracy_holds`.
    """
    if num_classes in (0, num_logits):
        return ""
    holds = accuracy_holds(num_logits, num_classes, names)
    known = "its accuracy holds only if logit k is the class of label k"
    offset = "; if other logits come first, such as a background class, give class_offset"
    return (
        f"network: it has {num_logits} logits, but the data have {num_classes} classes; "
        + (known if holds else "its accuracy is unknown")
        + (offset if num_logits > num_classes else "")
    )


def describe_permutation(count: int, top1: float, permuted: float) -> str:
    """Return one line if another order of the classes fits far better, else an empty one.

    Args:
        count: Samples with a class.
        top1: The fraction of these whose largest logit is that of their class.
        permuted: The fraction with a permutation of the classes, see `permuted_accuracy`.
    """
    variance = (top1 * (1 - top1) + permuted * (1 - permuted)) / max(count, 1)
    better = permuted * (1 - top1) > _MIN_ODDS * top1 * (1 - permuted)
    if not better or permuted - top1 <= _MIN_DEVIATIONS * math.sqrt(variance):
        return ""
    return (
        f"reference/accuracy is {top1:.2%}, but {permuted:.2%} with a permutation of the"
        " classes, fitted on one half of the reference set and judged on the other: the"
        " network's classes are in another order than those of the data, see"
        " lit_hier.data.classes, or at an offset"
    )
