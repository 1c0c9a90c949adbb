"""Reading untrusted files: regular files only, and no more than fits into memory."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Final

from lit_hier.errors import InputError, one_line

_MAX_SIZE: Final = 2**28  # bytes of a text file or an image file


@contextmanager
def reading(
    argument: str, path: str | PathLike[str], hint: str, problem: str = "is damaged"
) -> Iterator[None]:
    """Report any error while an untrusted file is read as one line.

    Libraries raise errors of almost any type on damaged or hostile contents; what they raise is
    the file's fault, not the program's. So only the reading itself belongs into this context.

    Args:
        argument: The user's name for the file.
        path: The file.
        hint: What to do.
        problem: What an error of the contents means.

    Raises:
        InputError: Any exception was raised; an `InputError` passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"{argument}: cannot read {path}: {reason}; {hint}") from error
    except MemoryError as error:
        raise InputError(f"{argument}: {path} needs more memory than there is; {hint}") from error
    except Exception as error:
        raise InputError(f"{argument}: {path} {problem}; {hint}") from error


def check_file(path: str | PathLike[str]) -> int:
    """Check that a path is a regular file: reading a pipe may block, a device may never end.

    Returns:
        Its size in bytes.

    Raises:
        OSError: It does not exist, or is not a regular file.
    """
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return status.st_size


def read_file(path: str | PathLike[str]) -> bytes:
    """Read a whole file.

    Raises:
        OSError: It does not exist, is not a regular file, or is too large.
    """
    if check_file(path) > _MAX_SIZE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    try:
        return Path(path).read_bytes()
    except ValueError as error:  # a path with a null byte
        raise OSError(errno.EINVAL, str(error), str(path)) from error
