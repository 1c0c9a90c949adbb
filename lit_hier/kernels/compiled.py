"""Kernels that Triton compiles for an NVIDIA GPU: where they can be used, and what if they fail.

The environment variable LIT_HIER_KERNEL=0 turns all of them off.
"""

import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Final, TypeVar

import torch
from torch import Tensor

from lit_hier.errors import InputError, one_line

T = TypeVar("T")
_LOG: Final = logging.getLogger("lit_hier")


class CompiledKernels:
    """The kernels of one task, used until they cannot be compiled.

    Args:
        task: What they do, as the subject of a warning.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._failed = False

    def can_run_on(self, device: torch.device) -> bool:
        """Return whether the kernels can be used on a device, and none has failed."""
        switched_off = os.environ.get("LIT_HIER_KERNEL") == "0"
        on_gpu = device.type == "cuda"
        return on_gpu and not self._failed and not switched_off and _can_compile(device)

    def run(self, x: Tensor, launch: Callable[[], T]) -> T | None:
        """Launch kernels on the device of `x`; if they fail, warn once and return None ever after.

        Raises:
            InputError: `launch` raised it.
            OutOfMemoryError: `launch` raised it.
        """
        if self._failed:
            return None
        try:
            with torch.cuda.device_of(x):
                return launch()
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of Triton, its C compiler or the driver
            self._failed = True
            _LOG.warning(
                "%s runs as plain torch operations on this GPU: the kernel cannot be compiled"
                " (%s); set LIT_HIER_KERNEL=0 to silence this",
                self._task,
                one_line(error)[:300],
            )
            return None


@cache
def _can_compile(device: torch.device) -> bool:
    return (
        torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and find_spec("triton") is not None
    )
