"""Atomic writes, and locks of folders that one run at a time may fill."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO

from filelock import BaseFileLock, FileLock, Timeout


@contextmanager
def atomic_write(path: str | PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` once it is complete and on the disk.

    Missing parent folders are created.

    Raises:
        OSError: The file cannot be written; the error names `path`, which stays as it was.
    """
    target = Path(path)
    try:
        with _open_draft(target) as file:
            yield file
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(target)) from error


@contextmanager
def _open_draft(target: Path) -> Iterator[IO[bytes]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def lock_folder(folder: str | PathLike[str]) -> BaseFileLock:
    """Lock a folder against other processes, until `release` or the end of this process.

    The folder is created if it is missing. On a file system without locks nothing is locked.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: The lock file cannot be created.
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
    except (OSError, NotImplementedError):  # the file exists, but it cannot be locked
        pass
    return lock
