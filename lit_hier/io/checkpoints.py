"""Reading checkpoints without running code that they hold; their format; loading state dicts.

What a file may take is decided by its size before anything is built. Its structure, which is
pickled, has at most 2 MiB; all its values, each counted as often as it occurs, at most 2^24
characters or values, nested at most 50 levels; its tensors at most twice its size.
"""

import json
import math
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_hier.errors import InputError, one_line
from lit_hier.io.formats import CHECKPOINT_FORMAT, check_format
from lit_hier.io.safe_read import open_regular, reading

_RECORD: Final = "lit_hier"
_HINT: Final = "give the .ckpt file that `lit-hier fit` wrote"
_NOT_TENSORS: Final = "is not a tensors-only checkpoint"
_MAX_STRUCTURE: Final = 2**21  # bytes of a pickle or of a header
_MAX_VALUES: Final = 2**24  # values and characters, counted as often as they occur
_MAX_DEPTH: Final = 50  # levels of values
_MAX_BITS: Final = 64  # of an integer
_MAX_EXPANSION: Final = 2  # bytes of tensors per byte of the file
_SLACK: Final = 2**20  # bytes of tensors besides
_ZIP: Final = b"PK\x03\x04"
_LEGACY_PICKLES: Final = 5  # of a file of torch 1.5 and older, before the tensors
# Constructors that torch allows and that allocate memory without filling it.
_ALLOCATING: Final = re.compile(rb"torch\nTensor\n|(?:builtins|__builtin__)\nbytearray\n")


def write_record(checkpoint: dict[str, Any], **values: Any) -> None:
    """Record the format of a checkpoint and plain values that describe what it holds."""
    checkpoint[_RECORD] = {"format": CHECKPOINT_FORMAT, **values}


def read_record(checkpoint: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what `write_record` wrote.

    Args:
        checkpoint: A checkpoint of Lightning.
        source: Its name in error messages, such as `weights: FILE`.

    Returns:
        The record; empty for format 1, whose checkpoints have none.

    Raises:
        InputError: The record is damaged, or its format is newer than this version reads.
    """
    record = checkpoint.get(_RECORD)
    if record is None:
        return {}
    if not isinstance(record, dict) or record.get("format") is None:
        raise InputError(f"{source} has a damaged record of its format; {_HINT}")
    check_format(record["format"], CHECKPOINT_FORMAT, source)
    return dict(record)


def read_state_dict(path: str | PathLike[str], argument: str, hint: str) -> dict[str, Tensor]:
    """Read a bare state dict, of safetensors or as `torch.save` wrote it: see `read_tensors`."""
    if Path(path).suffix == ".safetensors":
        read_header(path, argument, hint)
        with reading(argument, path, hint):
            return load_file(path)
    state = read_tensors(path, argument, hint)
    if not is_state_dict(state):
        raise InputError(f"{argument}: {path} is not a state dict; {hint}")
    return dict(state)


def read_header(
    path: str | PathLike[str], argument: str, hint: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type, such as `F32`, and the shape of each tensor in a file of safetensors.

    Raises:
        InputError: The file cannot be read, or is not such a file.
    """
    with reading(argument, path, hint):
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > min(size, _MAX_STRUCTURE):
                raise ValueError
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        kinds = {name: (str(x["dtype"]), tuple(x["shape"])) for name, x in header.items()}
        shapes = [shape for _, shape in kinds.values()]
        numbers = [number for shape in shapes for number in shape]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError
        if sum(map(math.prod, shapes)) > size:
            raise ValueError
    return kinds


def is_state_dict(state: Any) -> bool:
    """Return whether a value maps names to tensors."""
    return isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )


def load_state(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    name: str,
    hint: str,
    **options: bool,
) -> None:
    """Load a state dict into a network, strictly.

    Args:
        network: Its parameters and buffers are set.
        state: Tensors by name.
        source: The name of the state dict in error messages, such as `weights: FILE`.
        name: The name of the network in error messages.
        hint: What to do, for error messages.
        **options: Those of `Module.load_state_dict`.

    Raises:
        InputError: A tensor is missing, unexpected, of another shape or of another kind of number,
            see `check_kinds`, or has values that are not finite; the first one is named.
    """
    check_kinds(network.state_dict(), state, source, name, hint)
    masks = find_not_finite(network.state_dict())  # may have infinity
    try:
        network.load_state_dict(state, **options)
    except Exception as error:  # damaged tensors may fail anywhere in torch
        reason = _mismatch(network.state_dict(), state) or one_line(error)[:200]
        raise InputError(f"{source} does not fit {name}: {reason}; {hint}") from error
    for key in find_not_finite(network.state_dict()):
        if key not in masks:
            raise InputError(f"{source}: {key:.80} has values that are not finite; {hint}")


def find_not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that have NaN or infinity; those without data have none."""
    return [
        name
        for name, value in state.items()
        if (value.is_floating_point() or value.is_complex())
        and not (value.is_meta or value.isfinite().all())
    ]


def check_kinds(
    expected: Mapping[str, Tensor], state: Mapping[str, Any], source: str, name: str, hint: str
) -> None:
    """Check that values are tensors of the same kind of number: real, complex, integer or boolean.

    Precisions may differ.

    Args:
        expected: The tensors that are set, by name.
        state: Their new values; names that `expected` lacks are ignored.
        source: See `load_state`.
        name: See `load_state`.
        hint: See `load_state`.

    Raises:
        InputError: One is something else; it is named.
    """
    for key in expected.keys() & state.keys():
        own, given = expected[key], state[key]
        if not isinstance(given, Tensor) or _kind(given) != _kind(own):
            found = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise InputError(
                f"{source} does not fit {name}: {key:.80} is {found}, not {own.dtype}; {hint}"
            )


def _kind(value: Tensor) -> tuple[bool, bool, bool]:
    return value.is_floating_point(), value.is_complex(), value.dtype == torch.bool


def _mismatch(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Describe the first difference in names and shapes; empty if there is none."""
    for name, value in expected.items():
        if name not in state:
            return f"{name:.80} is missing"
        if state[name].shape != value.shape:
            return f"{name:.80} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    return next((f"{name:.80} is unexpected" for name in state if name not in expected), "")


def read_tensors(path: str | PathLike[str], argument: str, hint: str) -> Any:
    """Read a tensors-only file that `torch.save` wrote; code in it is never run.

    Args:
        path: The file.
        argument: The user's name for it, for the error message.
        hint: Which file to give instead, for the error message.

    Returns:
        Tensors and primitives, on the CPU.

    Raises:
        InputError: There is no such file, or it holds anything else.
    """
    with reading(argument, path, hint, _NOT_TENSORS), warnings.catch_warnings():
        # About the pickle protocol of files that are rejected anyway.
        warnings.simplefilter("ignore", UserWarning)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            _check_structure(file, size)
            file.seek(0)
            value = torch.load(file, map_location="cpu", weights_only=True)
        _Census(size).count(value, 0)
        return value


def _check_structure(file: IO[bytes], size: int) -> None:
    """Check what `torch.load` would build, before it does.

    Raises:
        ValueError: The structure is too large, is compressed, or allocates more than it fills.
        Exception: It is damaged.
    """
    is_zip = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    structure = _read_zip_structure(file, size) if is_zip else _read_legacy_structure(file)
    if len(structure) > _MAX_STRUCTURE or _ALLOCATING.search(structure):
        raise ValueError


def _read_zip_structure(file: IO[bytes], size: int) -> bytes:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        # Equal names, overlapping members and compressed ones hold more than the file does.
        if len(names) < len(members) or sum(member.file_size for member in members) > size:
            raise ValueError
        (name,) = (name for name in names if Path(name).name == "data.pkl")
        with archive.open(name) as structure:
            return structure.read(_MAX_STRUCTURE + 1)


def _read_legacy_structure(file: IO[bytes]) -> bytes:
    for _ in range(_LEGACY_PICKLES):
        for _, _, position in pickletools.genops(file):
            if (position or 0) > _MAX_STRUCTURE:
                raise ValueError
    end = file.tell()
    file.seek(0)
    return file.read(min(end, _MAX_STRUCTURE + 1))


class _Census:
    """Counts the values that a file holds, each as often as it occurs.

    Args:
        size: Bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self.num_bytes = _MAX_EXPANSION * size + _SLACK  # that tensors may still take
        self.counted: dict[int, tuple[int, int]] = {}  # containers by identity

    def count(self, value: Any, depth: int) -> tuple[int, int]:
        """Return the number of values and characters, and that of levels.

        Raises:
            ValueError: There is too much, or a tensor that is not a dense array in memory.
        """
        if id(value) in self.counted:
            found = self.counted[id(value)]
        elif isinstance(value, Tensor):
            self._check_tensor(value)
            found = self.counted[id(value)] = (1, 1)
        elif isinstance(value, dict | list | tuple | set):
            if depth > _MAX_DEPTH:
                raise ValueError
            parts: list[Any] = list(value)
            if isinstance(value, dict):
                parts += [*value.values(), *getattr(value, "__dict__", {}).values()]
            total, levels = 1, 0
            for part in parts:
                more, below = self.count(part, depth + 1)
                total, levels = total + more, max(levels, below)
            found = self.counted[id(value)] = (total, levels + 1)
        else:
            if isinstance(value, int) and value.bit_length() > _MAX_BITS:
                raise ValueError
            return (1 + len(value) if isinstance(value, str | bytes) else 1), 1
        if found[0] > _MAX_VALUES or depth + found[1] > _MAX_DEPTH:
            raise ValueError
        return found

    def _check_tensor(self, value: Tensor) -> None:
        is_dense = value.layout == torch.strided and not value.is_nested
        if type(value) not in (Tensor, nn.Parameter) or not is_dense or value.is_quantized:
            raise ValueError
        self.num_bytes -= value.numel() * value.element_size()
        if value.device.type != "cpu" or self.num_bytes < 0:
            raise ValueError


def read_checkpoint(path: str | PathLike[str], argument: str) -> dict[str, Any]:
    """Read a Lightning checkpoint; see `read_tensors`.

    Returns:
        Tensors and primitives, among them a `state_dict`.

    Raises:
        InputError: The file cannot be read, is not such a checkpoint, or has another format.
    """
    checkpoint = read_tensors(path, argument, _HINT)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{argument}: {path} is not a Lightning checkpoint; {_HINT}")
    read_record(checkpoint, f"{argument}: {path}")
    return checkpoint
