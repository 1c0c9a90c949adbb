"""What the kernels report about a sample, and which answers it concerns."""

from collections.abc import Iterable
from enum import IntFlag
from typing import Final

from jaxtyping import Bool, Integer
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.inference.passes import Query

INVALID_MESSAGES: Final = "leaf_messages must be finite and non-negative; look for NaN upstream"

TABLES: Final[tuple[Query, ...]] = ("upward", "downward", "marginals", "trees")
"""The queries that are answered by a table per level."""


class Flag(IntFlag):
    """Where the error due to underflow may exceed rounding; or that leaf messages are invalid."""

    UPWARD = 1
    DOWNWARD = 2
    PRODUCTS = 4
    DRAWN = 8
    INVALID = 16


_AFFECTED_BY: Final[dict[Query, Flag]] = {
    "upward": Flag.UPWARD,
    "downward": Flag.UPWARD | Flag.DOWNWARD,
    "marginals": Flag.UPWARD | Flag.DOWNWARD | Flag.PRODUCTS,
    "log_evidence": Flag.UPWARD,
    "trees": Flag.UPWARD | Flag.DRAWN,
}


def affected_queries(
    flags: Integer[Tensor, " batch"], any_flags: int, queries: Iterable[Query]
) -> dict[Query, Bool[Tensor, " batch"]]:
    """Return which samples' error due to underflow may exceed rounding, by query, shape (B,).

    Args:
        flags: Of each sample, shape (B,).
        any_flags: Their union.
        queries: What was answered.

    Returns:
        Empty if no sample is affected.

    Raises:
        InputError: A leaf message is negative or non-finite.
    """
    if any_flags & Flag.INVALID:
        raise InputError(INVALID_MESSAGES)
    if not any_flags:
        return {}
    return {query: (flags & int(_AFFECTED_BY[query])) != 0 for query in queries}
