"""How much memory something may take: no more than the machine has."""

import os

from lit_hier.errors import InputError

_GIB = 2**30


def check_memory(num_bytes: int, what: str, remedy: str) -> None:
    """Reject what cannot fit into memory, before any of it is allocated.

    Args:
        num_bytes: Estimate of what it needs at once.
        what: The user's names for the numbers that decide it.
        remedy: What to do.

    Raises:
        InputError: It needs more than the physical memory.
    """
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > installed:
        raise InputError(
            f"{what} need {_describe(num_bytes)} of memory, but this machine has"
            f" {_describe(installed)}; {remedy}"
        )


def _describe(num_bytes: int) -> str:
    size = num_bytes / _GIB if num_bytes < 2**1000 else float("inf")
    return f"{size:.1f} GiB" if size < 10**6 else "more than 10^6 GiB"
