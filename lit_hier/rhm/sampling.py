"""Sampling without replacement from a Cartesian product that is too large to enumerate."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lit_hier.errors import InputError

_BLOCK_SIZE: Final = 4096  # words drawn at a time, and at most
_BLOCK_NUMBERS: Final = 2**23  # numbers in them, 64 MiB; changes no bit
_MANY: Final = 2**128  # words; a larger number of them changes no draw, and takes long to compute
_MAX_PERMUTED: Final = 65536  # number of words up to which a permutation is cheaper than a block


def sample_distinct_words(
    generator: np.random.Generator, num: int, radices: Sequence[int], what: str
) -> NDArray[np.integer]:
    """Draw distinct words uniformly from the product of {0, ..., radix - 1} over `radices`.

    Words are drawn one after another, in blocks, and repeats are dropped; if there are few words
    in total, they are permuted instead. In both cases a longer draw begins with the shorter one.

    Args:
        generator: Source of randomness; its state advances.
        num: Number of words.
        radices: Size of the set at each of the D positions, each at least 1.
        what: What the words stand for, used in the error message.

    Returns:
        Words in the smallest unsigned integer type that holds them, shape (num, D).

    Raises:
        InputError: There are fewer than `num` words.
    """
    total = count_words(radices)
    if num > total:
        raise InputError(f"{what}: cannot draw {num} distinct ones; only {total} exist")
    dtype = np.min_scalar_type(max(radices) - 1)
    if total <= _MAX_PERMUTED:
        ranks = generator.permutation(total)[:num]
        words = np.empty((num, len(radices)), dtype)
        for position, radix in reversed(list(enumerate(radices))):
            ranks, words[:, position] = np.divmod(ranks, radix)
        return words
    words = np.empty((0, len(radices)), dtype)
    size = max(1, min(_BLOCK_SIZE, _BLOCK_NUMBERS // len(radices)))
    while (missing := num - len(words)) > 0:
        # The expected number of new words among these is `missing`.
        draws = missing * total // (total - len(words))
        blocks = [
            generator.integers(0, radices, size=(size, len(radices))).astype(dtype)
            for _ in range(draws // size + 1)
        ]
        words = _drop_repeats(np.concatenate((words, *blocks)))
    return words[:num]


def count_words(radices: Sequence[int]) -> int:
    """Count the words of a product; beyond 2^128, return some number beyond that."""
    total = 1
    for radix in radices:
        total *= radix
        if total > _MANY:
            break
    return total


def _drop_repeats(words: NDArray[np.integer]) -> NDArray[np.integer]:
    """Keep the first of equal rows, in order."""
    rows = np.ascontiguousarray(words).view(np.dtype((np.void, words.itemsize * words.shape[1])))
    first = np.unique(rows.ravel(), return_index=True)[1]
    return words[np.sort(first)]
