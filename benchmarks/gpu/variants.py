"""The ways in which belief propagation can be computed, as switches.

`chosen` is what the package chooses by itself; `plain` are torch operations. Another way that the
package can be switched to is added here, and is then checked and timed like the others.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

KERNEL_VARIABLE = "LIT_HIER_KERNEL"


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


VARIANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "chosen": lambda: environment(**{KERNEL_VARIABLE: "1"}),
    "plain": lambda: environment(**{KERNEL_VARIABLE: "0"}),
}
PLAIN = VARIANTS["plain"]
