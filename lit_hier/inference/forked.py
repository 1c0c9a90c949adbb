"""Belief propagation in a forked process: on one thread, as those of torch do not survive a fork.

A parallel operation would wait for them for ever. Neither results nor the number of threads that
the process has set for itself change.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_forked = False


def _note() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)


@contextmanager
def one_thread_if_forked() -> Iterator[None]:
    """Compute on one thread if this process was forked after this module was imported."""
    num_threads = torch.get_num_threads()
    if not _forked or num_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
