"""How a command ends: with an error in one line, interrupted, or before a pipe that was closed."""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

from lit_hier.errors import one_line

_INTERRUPTED: Final = "lit-hier: interrupted; run the same command again\n"
_RANKS: Final = ("LOCAL_RANK", "RANK", "SLURM_PROCID")  # 0 in the first process
_DELAY: Final = 5.0  # seconds
_MAX_LINE: Final = 360  # characters
_SIGPIPE: Final = 13  # Windows has no such signal


def shorten(message: object) -> str:
    """Return a message as one printable line of readable length."""
    line = one_line(message)
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE - 4]} ..."


def exit_with_error(message: object) -> NoReturn:
    """Print an error as one line and exit with status 2.

    Of several processes that a cluster or torchrun has started, the first one prints it at once:
    the same error in others, which then end with it, is not repeated.
    """
    if any(os.environ.get(name, "0") != "0" for name in ("RANK", "SLURM_PROCID")):
        time.sleep(_DELAY)
    sys.stderr.write(f"lit-hier: error: {shorten(message)}\n")
    sys.exit(2)


@contextmanager
def interrupts_as_status() -> Iterator[None]:
    """Exit with one line on an interrupt: with status 130, or 143 if it was by SIGTERM.

    Lightning ends an interrupted run with status 1 and its own line, as if it had failed.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        interrupt = error if isinstance(error, KeyboardInterrupt) else error.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        if not any(os.environ.get(name, "0") != "0" for name in _RANKS):
            sys.stderr.write(_INTERRUPTED)
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        sys.exit(128 + number)


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """End the process on an interrupt, for the time in which it imports and has written nothing.

    An import that is interrupted may report an error of its own, or go on.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as by nohup, or another thread's
        yield
        return
    signal.signal(signal.SIGINT, _end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_at_once(number: int, frame: object) -> NoReturn:
    os.write(2, _INTERRUPTED.encode())
    os._exit(128 + number)


@contextmanager
def closed_pipes_end_quietly() -> Iterator[None]:
    """Exit with status 141, as on SIGPIPE, if who reads standard output has closed it (`| head`).

    The signal itself would end a run that writes to any other pipe or socket.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here rather than as Python ends, which reports what fails
    except BrokenPipeError:
        if not is_output_closed():
            raise
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + _SIGPIPE)


def is_output_closed() -> bool:
    """Return whether who reads standard output has closed it; true where this is unknown."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # on Windows, or of no file
        return True
