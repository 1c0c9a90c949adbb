"""Load the native kernel, a shared library that is built with the package.

Machines differ in their instruction sets, so the package has several variants of the library,
whose results have the same bits; the widest one that torch reports the machine to support is
loaded. The environment variable `LIT_HIER_KERNEL=0` turns the kernel off. If no variant can be
loaded, belief propagation runs as plain torch operations, and one line in the log says why; of
several distributed processes, the first logs it.
"""

import ctypes
import logging
import os
from functools import cache
from pathlib import Path
from typing import Final

import torch

from lit_hier.errors import one_line
from lit_hier.inference.kernel_sources import VARIANTS, source_digest

_LOG: Final = logging.getLogger("lit_hier")
FOLDER: Final = Path(__file__).parent / "native"  # not a package: nothing in it is a module
_REMEDY: Final = (
    "to build it, reinstall lit-hier on a machine with a C compiler (in a checkout:"
    " pip install --editable .)"
)
_DIGEST_LENGTH: Final = 64


class Grammar(ctypes.Structure):
    """`struct grammar` of native/interface.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in "vnmsL"),
        *((name, ctypes.c_void_p) for name in ("rules", "targets", "terms", "prior")),
        ("prior_stride", ctypes.c_int64),
    )


class Results(ctypes.Structure):
    """`struct results` of native/interface.h."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("upward", "downward", "marginals", "trees"),
            *("root", "exponents", "draws", "flags"),
        )
    )


class UnusableLibraryError(Exception):
    """A library of the kernel is missing, cannot be loaded, or does not match the package."""


def variant_names() -> list[str]:
    """List the variants whose instructions this machine has, widest first."""
    names = list(VARIANTS)
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return names[names.index(capability) :] if capability in names else names[-1:]


def variant_path(variant: str) -> Path:
    """Path of a variant's library in the package, whether or not it was built."""
    return FOLDER / f"kernel_{variant}.so"


def load_library(path: Path) -> ctypes.CDLL:
    """Load a library and check that it matches this package.

    Raises:
        UnusableLibraryError: It is missing, cannot be loaded, or does not match the package.
    """
    if not path.is_file():
        raise UnusableLibraryError(f"{path.name} was not built")
    try:
        library = ctypes.CDLL(str(path))
        sizes = (ctypes.c_uint32 * 2).in_dll(library, "struct_sizes")
        digest = (ctypes.c_char * _DIGEST_LENGTH).in_dll(library, "source_digest")
        expected_sizes = [ctypes.sizeof(Grammar), ctypes.sizeof(Results)]
        if list(sizes) != expected_sizes:
            raise UnusableLibraryError(
                f"{path.name} is stale: its structures have {list(sizes)} bytes, those in"
                f" this package {expected_sizes}"
            )
        if source_digest() not in (None, digest.raw.decode("ascii", "replace")):
            raise UnusableLibraryError(
                f"{path.name} is stale: its sources differ from those in this package"
            )
    except (OSError, ValueError) as error:
        raise UnusableLibraryError(f"{path.name} cannot be loaded: {error}") from error
    return library


def load_kernel() -> ctypes.CDLL | None:
    """Return the kernel, or None if none can be loaded or the environment turns it off."""
    if "LIT_HIER_COMPILE" in os.environ:
        _announce_new_name()
    return None if os.environ.get("LIT_HIER_KERNEL") == "0" else _load_widest()


@cache
def _announce_new_name() -> None:
    _warn(
        "the environment variable LIT_HIER_COMPILE is ignored: the kernel is built with the"
        " package; set LIT_HIER_KERNEL=0 to run without it"
    )


@cache
def _load_widest() -> ctypes.CDLL | None:
    """Load the widest usable variant.

    Logs one line if no variant is usable, or if a wider one exists but is unusable. A wider one
    that was not built is not reported: the compiler may not support its instructions.
    """
    reasons: dict[Path, str] = {}
    for path in map(variant_path, variant_names()):
        try:
            library = load_library(path)
        except UnusableLibraryError as error:
            reasons[path] = one_line(error)
            continue
        unusable = [reason for other, reason in reasons.items() if other.is_file()]
        if unusable:
            _warn(
                "belief propagation uses the slower library %s (%s); %s",
                path.name,
                "; ".join(unusable),
                _REMEDY,
            )
        return library
    _warn(
        "belief propagation runs as plain torch operations, which takes tens of times longer,"
        " because there is no kernel (%s); %s",
        "; ".join(reasons.values()),
        _REMEDY,
    )
    return None


def _warn(message: str, *args: str) -> None:
    """Log a warning, in the first of several distributed processes only."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_rank() == 0:
        _LOG.warning(message, *args)
