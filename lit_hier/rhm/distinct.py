"""Drawing without replacement from a product of finite sets that is too large to list."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lit_hier.errors import InputError

_BLOCK: Final = 4096  # words drawn at a time
_FEW: Final = 65536  # words in all, of which a permutation costs less than a block


def draw_distinct(
    generator: np.random.Generator, num: int, radices: Sequence[int], what: str
) -> NDArray[np.integer]:
    """Draw distinct words uniformly from the product of {0, ..., radix - 1} over `radices`.

    Words are drawn one after another and repeats are dropped; where there are few in all, they
    are permuted instead. Either way a longer draw begins with the shorter one.

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
    if total <= _FEW:
        ranks = generator.permutation(total)[:num]
        words = np.empty((num, len(radices)), dtype)
        for position, radix in reversed(list(enumerate(radices))):
            ranks, words[:, position] = np.divmod(ranks, radix)
        return words
    words = np.empty((0, len(radices)), dtype)
    while (missing := num - len(words)) > 0:
        # So many that as many new ones as are missing may be expected among them; in blocks of
        # one size, so that the stream of draws is the same for every `num`.
        draws = missing * total // (total - len(words))
        fresh = [
            generator.integers(0, radices, size=(_BLOCK, len(radices))).astype(dtype)
            for _ in range(draws // _BLOCK + 1)
        ]
        words = _drop_repeats(np.concatenate((words, *fresh)))
    return words[:num]


def _drop_repeats(words: NDArray[np.integer]) -> NDArray[np.integer]:
    """Keep the first of equal rows, in order."""
    rows = np.ascontiguousarray(words).view(np.dtype((np.void, words.itemsize * words.shape[1])))
    first = np.unique(rows.ravel(), return_index=True)[1]
    return words[np.sort(first)]
