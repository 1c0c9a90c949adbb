"""Reading checkpoints without running code that they hold; their format; loading state dicts."""

import warnings
from collections.abc import Mapping
from os import PathLike
from typing import Any, Final

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError, one_line
from lit_hier.io.formats import CHECKPOINT_FORMAT, check_format
from lit_hier.io.safe_read import open_regular

_RECORD: Final = "lit_hier"
_HINT: Final = "give the .ckpt file that `lit-hier fit` wrote"


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
    """Read a bare state dict that `torch.save` wrote: see `read_tensors`."""
    state = read_tensors(path, argument, hint)
    if not is_state_dict(state):
        raise InputError(f"{argument}: {path} is not a state dict; {hint}")
    return dict(state)


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
        InputError: A tensor is missing, unexpected or of another shape; the first one is named.
    """
    try:
        network.load_state_dict(state, **options)
    except Exception as error:  # damaged tensors may fail anywhere in torch
        reason = _mismatch(network.state_dict(), state) or one_line(error)[:200]
        raise InputError(f"{source} does not fit {name}: {reason}; {hint}") from error


def _mismatch(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Describe the first difference in names and shapes; empty if there is none."""
    for name, value in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != value.shape:
            return f"{name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    return next((f"{name} is unexpected" for name in state if name not in expected), "")


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
    try:
        with warnings.catch_warnings():
            # About the pickle protocol of files that are rejected anyway.
            warnings.simplefilter("ignore", UserWarning)
            with open_regular(path) as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{argument}: cannot read {path}: {error.strerror}; {hint}") from error
    except Exception as error:  # a damaged file may raise any error
        raise InputError(f"{argument}: {path} is not a tensors-only checkpoint; {hint}") from error


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
