"""Reading files that others have made: files only, and no more than fits into memory."""

import errno
import os
import stat
from os import PathLike
from pathlib import Path
from typing import Final

_MOST: Final = 2**28  # bytes of a file of text or of a picture


def check_file(path: str | PathLike[str]) -> int:
    """Refuse what is no regular file: a pipe would wait for ever, a device never end.

    Returns:
        Its bytes.

    Raises:
        OSError: It is none, or it is not there.
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
        OSError: It is no regular file, not there, or too large.
    """
    if check_file(path) > _MOST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    try:
        return Path(path).read_bytes()
    except ValueError as error:  # a name with a zero byte
        raise OSError(errno.EINVAL, str(error), str(path)) from error
