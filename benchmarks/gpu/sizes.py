"""Grammars and queries that checks of belief propagation share; imports nothing heavy."""

from typing import Any

Size = tuple[int, ...]
LARGE, SMALL, TINY = (32, 8, 2, 10), (16, 4, 2, 7), (16, 4, 2, 3)
# v, m, s, L, n: the paper's sizes; s = 3 and 4, an odd v, n below and above v, two symbols.
SIZES = (
    (16, 4, 2, 7, 16),
    (32, 8, 2, 10, 32),
    (20, 3, 3, 4, 7),
    (5, 3, 4, 3, 5),
    (33, 5, 2, 4, 40),
    (2, 2, 2, 6, 2),
)
ALL = ("upward", "downward", "marginals", "log_evidence", "trees")
TIMED = {"marginals": ("marginals",), "marginals, trees": ("marginals", "trees")}
DTYPES = ("float32", "float64")


def kernel_name(size: Size, dtype: Any, queries: tuple[str, ...]) -> str:
    """Name a compiled kernel, in tables and among what later checks know."""
    return f"{size}, {str(dtype).removeprefix('torch.')}, {', '.join(queries)}"
