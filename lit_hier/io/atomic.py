"""Atomic writes, and locks of folders that one run at a time may fill."""

import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Final

from filelock import BaseFileLock, FileLock, Timeout

_LOG: Final = logging.getLogger("lit_hier")
_UNSUPPORTED: Final = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_CHECKS: Final[list[tuple[int, Callable[[], object]]]] = []  # and the process of each


@contextmanager
def checked_writes(check: Callable[[], object]) -> Iterator[None]:
    """Call a check before each file is put in its place; what it raises keeps the file out."""
    entry = os.getpid(), check
    _CHECKS.append(entry)
    try:
        yield
    finally:
        _CHECKS.remove(entry)


def check_writes() -> None:
    """Call the checks that must pass before a file is written."""
    for process, check in list(_CHECKS):
        if process == os.getpid():  # not in one that was forked from it
            check()


@contextmanager
def atomic_write(path: str | PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` once it is complete and on the disk.

    Missing parent folders are created.

    Raises:
        OSError: The file cannot be written; the error names `path`, which stays as it was.
    """
    target = Path(path)
    try:
        with _open_temporary(target) as file:
            yield file
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(target)) from error


@contextmanager
def _open_temporary(target: Path) -> Iterator[IO[bytes]]:
    check_writes()
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        check_writes()
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def lock_folder(folder: str | PathLike[str]) -> BaseFileLock:
    """Lock a folder against other processes, until `release` or the end of this process.

    The folder is created if it is missing. On a file system without locks nothing is locked, and
    a warning is logged.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: The lock file cannot be created, or locking fails for another reason, such as too
            many open files.
    """
    path = Path(folder, ".lock").resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o644)
    # One object per path: the lock is between processes, not between the runs of one process. A
    # soft lock would outlive a process that is killed.
    lock = FileLock(path, timeout=0, is_singleton=True, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{path} is locked by another process") from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
            raise
        _LOG.warning("%s: this file system has no locks; start one run per folder", path)
    return lock
