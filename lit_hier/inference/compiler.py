"""Compile the kernel on first use, keep it in the user's cache, load it.

Where there is no C compiler, or the environment says `LIT_HIER_COMPILE=0`, there is no kernel, and
belief propagation runs as plain torch operations. `CC` names a compiler other than `cc`.
"""

import ctypes
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from lit_hier.io.atomic import atomic_write

_LOG: Final = logging.getLogger("lit_hier")
_SOURCES: Final = ("kernel.c", "passes.h", "messages.h")
# Without contraction a multiplication and an addition round twice, as torch's do.
_FLAGS: Final = ("-std=gnu11", "-O3", "-ffp-contract=off", "-shared", "-fPIC")
# The machine's own instructions; how to ask for them depends on compiler and processor.
_NATIVE: Final = (("-march=native",), ("-mcpu=native",), ())
_PATIENCE: Final = 120  # seconds


def kernel(double: bool) -> ctypes.CDLL | None:
    """Give the compiled kernel for float64 or float32, or None where there is none."""
    return None if os.environ.get("LIT_HIER_COMPILE") == "0" else _kernel(double)


@cache
def _kernel(double: bool) -> ctypes.CDLL | None:
    try:
        return _load(double)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        _LOG.warning(
            "belief propagation runs as plain torch operations, which takes tens of times longer:"
            " there is no kernel (%s)",
            said.strip().splitlines()[0] if said.strip() else type(error).__name__,
        )
        return None


def _run(command: list[str]) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_PATIENCE,
    ).stdout


def _load(double: bool) -> ctypes.CDLL:
    """Load the kernel, from the cache if it is there.

    Raises:
        OSError: There is no compiler, or what it made cannot be loaded.
        subprocess.SubprocessError: The compiler fails.
    """
    here = Path(__file__).parent
    compiler = [*shlex.split(os.environ.get("CC", "cc")), *_FLAGS, *["-DDOUBLE"] * double]
    compiler += _native(compiler)
    # The predefined macros tell compiler, version and instruction set: one home may serve many
    # machines.
    key = hashlib.sha256(repr(compiler).encode())
    key.update(_run([*compiler, "-dM", "-E", "-x", "c", os.devnull]).encode())
    for name in _SOURCES:
        key.update((here / name).read_bytes())
    folder = _cache()
    kept = folder / f"kernel-{key.hexdigest()}.so" if folder else None
    if kept and _is_ours(kept):
        with suppress(OSError):  # one that was harmed is made anew
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as private:  # which nobody else may enter
        made = Path(private, "kernel.so")
        _run([*compiler, str(here / _SOURCES[0]), "-o", str(made)])
        if kept:
            with atomic_write(kept) as file:
                file.write(made.read_bytes())
        return ctypes.CDLL(str(kept or made))


def _native(compiler: list[str]) -> tuple[str, ...]:
    """Find how this compiler is asked for the machine's own instructions."""
    for flags in _NATIVE[:-1]:
        try:
            _run([*compiler, *flags, "-E", "-x", "c", os.devnull])
        except subprocess.CalledProcessError:
            continue
        return flags
    return _NATIVE[-1]


def _cache() -> Path | None:
    """Make the folder for compiled kernels, if there is a place that nobody else can write to."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")
    try:
        folder = Path(home, "lit-hier").expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if _is_ours(folder) and os.access(folder, os.W_OK) else None


def _is_ours(path: Path) -> bool:
    """Say whether something is there, is this user's and can be written by nobody else."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022
