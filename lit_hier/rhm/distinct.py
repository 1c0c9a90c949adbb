"""Drawing without replacement from a product of finite sets that is too large to list."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lit_hier.errors import InputError

_BLOCK: Final = 4096  # words drawn at a time


def draw_distinct(
    generator: np.random.Generator, num: int, radices: Sequence[int], what: str
) -> NDArray[np.integer]:
    """Draw distinct words uniformly from the product of {0, ..., radix - 1} over `radices`.

    Words are drawn one after another and repeats are dropped, so a longer draw from the same
    generator begins with the shorter one. Only where more than half of all words are wanted
    (the product is then smaller than 2 num) are they permuted instead.

    Args:
        generator: Source of randomness; it is advanced.
        num: How many distinct words.
        radices: Size of each of the D positions' sets, each at least 1.
        what: What the words are, for the error's message.

    Returns:
        Words in the smallest unsigned integer type that holds them, shape (num, D).

    Raises:
        InputError: There are fewer than `num` words.
    """
    total = math.prod(radices)
    if num > total:
        raise InputError(f"{what}: {num} distinct ones are wanted, but only {total} exist")
    dtype = np.min_scalar_type(max(radices) - 1)
    if 2 * num > total:
        ranks = generator.permutation(total)[:num]
        return np.stack(np.unravel_index(ranks, tuple(radices)), axis=-1).astype(dtype)
    words = np.empty((0, len(radices)), dtype)
    while (missing := num - len(words)) > 0:
        # Blocks of one size, so that the stream of draws is the same for every `num`.
        fresh = [
            generator.integers(0, radices, size=(_BLOCK, len(radices))).astype(dtype)
            for _ in range(-(-missing // _BLOCK))
        ]
        words = _drop_repeats(np.concatenate((words, *fresh)))
    return words[:num]


def _drop_repeats(words: NDArray[np.integer]) -> NDArray[np.integer]:
    """Keep the first of equal rows, in order."""
    rows = np.ascontiguousarray(words).view(np.dtype((np.void, words.itemsize * words.shape[1])))
    first = np.unique(rows.ravel(), return_index=True)[1]
    return words[np.sort(first)]
