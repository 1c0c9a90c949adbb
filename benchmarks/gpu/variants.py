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
def kernel() -> Iterator[None]:
    """Have the kernel answer, and raise where the package would fall back to the plain path."""
    answer_queries, try_to_answer = gpu.answer_queries, gpu.try_to_answer

    def answer(*arguments: Any) -> Any:
        try:
            return answer_queries(*arguments)
        except Exception:
            traceback.print_exc()  # to the check's log; the package tells one line
            raise

    def try_(tables: Any, leaves: Any, *arguments: Any) -> Any:
        answers = try_to_answer(tables, leaves, *arguments)
        if answers is None and leaves.is_cuda:
            reason = "; ".join(gpu._failures) or "it is not available, or the grammar too large"
            raise RuntimeError(f"the kernel was not used: {reason}")
        return answers

    with (
        environment(**{KERNEL_VARIABLE: "1"}),
        patch.object(gpu, "answer_queries", answer),
        patch.object(gpu, "try_to_answer", try_),
    ):
        yield


VARIANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "kernel": kernel,
    "plain": lambda: environment(**{KERNEL_VARIABLE: "0"}),
}
PLAIN = VARIANTS["plain"]
