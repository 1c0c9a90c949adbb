"""Reading untrusted files: regular files only, and no more than fits into memory."""

import errno
import hashlib
import json
import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os import PathLike
from typing import IO, Any, Final

from lit_hier.errors import InputError, one_line

_MAX_SIZE: Final = 2**28  # bytes of a text file or an image file
_CHUNK: Final = 2**20
# Opening or reading never waits, and makes no terminal that of this process. No system has all.
_NAMES: Final = ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
_FLAGS: Final = os.O_RDONLY | sum(getattr(os, name, 0) for name in _NAMES)


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
    """Check that a path is a regular file, for libraries that open it themselves.

    Returns:
        Its size in bytes.

    Raises:
        OSError: It does not exist, or is not a regular file.
    """
    try:
        return _check_regular(os.stat(path), path)
    except ValueError as error:  # a path with a null byte
        raise OSError(errno.EINVAL, str(error), str(path)) from error


def _check_regular(status: os.stat_result, path: str | PathLike[str]) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return status.st_size


def open_regular(path: str | PathLike[str], follow: bool = True) -> IO[bytes]:
    """Open a regular file for reading: opening a pipe may block, reading a device may never end.

    Args:
        path: The file.
        follow: Whether the path itself may be a link; those above it are followed.

    Returns:
        The open file.

    Raises:
        OSError: It does not exist, is not a regular file, or is a link that is not followed.
    """
    if not follow:
        check_no_link(path)
    check_file(path)  # opening a device may have an effect
    flags = _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_regular(os.fstat(file.fileno()), path)  # it may have been replaced meanwhile
    except BaseException:
        file.close()
        raise
    return file


_limits: list[float] = []  # of the contexts of `only_regular_files` that are open, in bytes


@contextmanager
def only_regular_files(limit: float = math.inf) -> Iterator[None]:
    """Raise `OSError` where Python code, of libraries too, opens a pipe or a device by its path.

    The null device may be opened.

    Args:
        limit: The largest size of a file, in bytes; that of the innermost context holds.
    """
    _install_guard()
    _limits.append(limit)
    try:
        yield
    finally:
        _limits.pop()


@cache
def _install_guard() -> None:
    sys.addaudithook(_guard)  # cannot be removed


def _guard(event: str, arguments: Any) -> None:
    if event != "open" or not _limits or not isinstance(arguments[0], str | bytes | PathLike):
        return
    path = os.fsdecode(arguments[0])
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # for `open` to report
        return
    if stat.S_ISDIR(status.st_mode) or path == os.devnull:
        return
    if _check_regular(status, path) > _limits[-1]:
        raise OSError(errno.EINVAL, f"More than {_limits[-1] // _CHUNK} MiB, too large here", path)


def check_no_link(path: str | PathLike[str]) -> None:
    """Check that a path is not a link, even a broken one.

    Raises:
        OSError: It is a link.
    """
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "It is a link, which is not followed here", str(path))


def read_file(path: str | PathLike[str], limit: int = _MAX_SIZE, follow: bool = True) -> bytes:
    """Read a whole file.

    Args:
        path: The file.
        limit: The largest size in bytes.
        follow: See `open_regular`.

    Raises:
        OSError: It does not exist, is not a regular file, is too large, or is a link that is not
            followed.
    """
    with open_regular(path, follow) as file:
        content = file.read(limit + 1)
    if content is None:  # a file of the kernel's, of which reading would wait
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def hash_file(path: str | PathLike[str]) -> str:
    """Return the SHA-256 of a file, up to the size that it has when it is opened.

    Raises:
        OSError: It does not exist, or is not a regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        remaining = os.fstat(file.fileno()).st_size
        while remaining > 0 and (chunk := file.read(min(remaining, _CHUNK))):
            digest.update(chunk)
            remaining -= len(chunk)
    return digest.hexdigest()


def fits(value: Any, schema: Any) -> bool:
    """Return whether a value that JSON holds has a schema.

    A schema is a type, which must be the exact one (so True is not an int); a list of one schema,
    for a list of any length; a dict of schemas, for a dict with these keys and perhaps others; or
    a function that returns whether a value is allowed.
    """
    if isinstance(schema, dict):
        return isinstance(value, dict) and all(
            name in value and fits(value[name], part) for name, part in schema.items()
        )
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(item, schema[0]) for item in value)
    if isinstance(schema, type):
        return type(value) is schema
    return bool(schema(value))


def read_json(content: bytes, schema: Any) -> Any:
    """Parse JSON, and check it against a schema, see `fits`.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or does not have this schema.
    """
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not fits(value, schema):
        raise ValueError("not the expected values")
    return value
