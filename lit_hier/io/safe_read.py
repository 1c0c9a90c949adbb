"""Reading untrusted files: regular files only, and no more than fits into memory."""

import errno
import os
import stat
from os import PathLike
from pathlib import Path
from typing import Final

_MAX_SIZE: Final = 2**28  # bytes of a text file or an image file


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
