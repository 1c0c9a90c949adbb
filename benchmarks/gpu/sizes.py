"""Grammars and queries that checks of belief propagation share; imports nothing heavy."""

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


def kernel_name(
    size: Size, dtype: str, queries: tuple[str, ...], prior_per_sample: bool = False
) -> str:
    """Name a compiled kernel, in tables and among what later checks know."""
    prior = "; a prior per sample" if prior_per_sample else ""
    return f"{size}, {dtype}, {', '.join(queries)}{prior}"


# The stride of a batch of priors is compiled for, too, unless it is a multiple of 16.
CHECKED_KERNELS = [
    (size, dtype, ALL, prior_per_sample)
    for size in sorted(SIZES, key=lambda size: size[0] * size[1] * size[3], reverse=True)
    for dtype in DTYPES
    for prior_per_sample in ((False, True) if size[4] % 16 else (False,))
]
