"""Files that are there whole or not at all, in folders that one run at a time fills."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: str | PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when all of it is on the disk.

    What is there is replaced; folders above it are made.

    Raises:
        OSError: It cannot be written; the error names the file. What was there stays.
    """
    target = Path(path)
    try:
        with _draft_of(target) as file:
            yield file
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(target)) from error


@contextmanager
def _draft_of(target: Path) -> Iterator[IO[bytes]]:
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


def lock_folder(folder: str | PathLike[str]) -> int:
    """Keep other processes from filling a folder, until the file descriptor that is given closes.

    The folder is made. A lock ends with its process, however that ends, and does not bind the
    process that has it.

    Raises:
        BlockingIOError: Another process has the lock.
    """
    path = Path(folder, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        os.close(descriptor)
        raise BlockingIOError(*error.args) from error
    except OSError:  # a file system that knows no locks
        pass
    return descriptor
