"""Atomic writes, and locks of folders that one run at a time may fill."""

import errno
import logging
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
def atomic_write(path: str | PathLike[str], durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` once it is complete and on the disk.

    Missing parent folders are created. If `path` is a link, it is replaced, and what it points to
    stays as it is; so do other names of the same file, hard links.

    Args:
        path: The file.
        durable: Whether to wait until the content is on the disk. Without this, a loss of power
            may leave a file that is empty or damaged, which its reader must detect.

    Raises:
        OSError: The file cannot be written; the error names `path`, which stays as it was.
    """
    target = Path(path)
    try:
        with _open_temporary(target, durable) as file:
            yield file
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(target)) from error


@contextmanager
def _open_temporary(target: Path, durable: bool) -> Iterator[IO[bytes]]:
    check_writes()
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        check_writes()
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_temporaries(folder: str | PathLike[str], pattern: str) -> None:
    """Remove temporary files of `atomic_write` that a killed process has left in a folder.

    No other process may write there: lock the folder first.

    Args:
        folder: The folder; if it is missing or a link, nothing happens.
        pattern: A regular expression of the names of the files that were to be written.
    """
    if not os.path.isdir(folder) or os.path.islink(folder):
        return
    name = re.compile(rf"\.(?:{pattern})\.[a-z0-9_]{{8}}")  # as tempfile names them
    with os.scandir(folder) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)


def check_writable(folder: str | PathLike[str]) -> None:
    """Check that files can be created in a folder, or where a missing one would be created.

    Raises:
        OSError: They cannot.
    """
    parent = Path(folder).absolute()
    while True:
        try:
            parent.lstat()
            break
        except (FileNotFoundError, NotADirectoryError):
            parent = parent.parent
        except ValueError as error:  # a path with a null byte
            raise OSError(errno.EINVAL, str(error), str(folder)) from error
    with tempfile.NamedTemporaryFile(prefix=".writable.", dir=parent):
        pass


def lock_folder(folder: str | PathLike[str]) -> BaseFileLock:
    """Lock a folder against other processes, until `release` or the end of this process.

    The folder is created if it is missing. On a file system without locks nothing is locked, and
    a warning is logged. The lock file is never written to.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: The lock file is not a regular file but a link, a pipe or a folder, it cannot be
            created, or locking fails for another reason, such as too many open files.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder).resolve() / ".lock"
    with suppress(FileExistsError):
        path.touch(0o644, exist_ok=False)  # never follows a link, not even a broken one
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "The lock is not a regular file", str(path))
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
