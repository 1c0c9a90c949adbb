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


# Levels within a lane and warps of a program, beside the package's own choice.
SETTINGS = ((2, 1), (2, 4), (1, 2), (1, 4))


def kernel_name(
    size: Size, dtype: str, queries: tuple[str, ...], setting: tuple[int, int] | None = None
) -> str:
    """Name a compiled kernel, in tables and among what later checks know."""
    of = f"; {setting_name(setting)}" if setting else ""
    return f"{size}, {dtype}, {', '.join(queries)}{of}"


def setting_name(setting: tuple[int, int]) -> str:
    """Name a setting of the kernel."""
    height, warps = setting
    return f"kernel of height {height}, {warps} warp{'s' * (warps > 1)}"


CHECKED_KERNELS = [
    (size, dtype, ALL)
    for size in sorted(SIZES, key=lambda size: size[0] * size[1] * size[3], reverse=True)
    for dtype in DTYPES
]
