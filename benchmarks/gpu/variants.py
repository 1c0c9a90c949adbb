"""The ways in which belief propagation can be computed, as switches.

`kernel` is the one that is compiled for a GPU; `plain` are torch operations. Another way that the
package can be switched to is added here, and is then timed like the others.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from lit_hier.inference import gpu

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


@contextmanager
def kernel(*setting: int) -> Iterator[None]:
    """Have the kernel answer, and raise where the package would fall back to the plain path.

    Args:
        setting: Height and warps for `gpu.answer_queries`, in place of the package's own.
    """
    try_to_answer = gpu.try_to_answer

    def answer(tables: Any, leaves: Any, *arguments: Any) -> Any:
        if not leaves.is_cuda:  # a rehearsal
            return try_to_answer(tables, leaves, *arguments)
        try:
            with torch.cuda.device_of(leaves):
                return gpu.answer_queries(tables, leaves, *arguments, *setting)
        except Exception:
            traceback.print_exc()  # to the check's log
            raise

    with patch.object(gpu, "try_to_answer", answer):
        yield


VARIANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "kernel": kernel,
    "plain": lambda: environment(**{KERNEL_VARIABLE: "0"}),
}
PLAIN = VARIANTS["plain"]
