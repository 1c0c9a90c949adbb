"""Reading checkpoints without running anything that they hold."""

import pickle
import warnings
from os import PathLike
from typing import Any, Final

import torch

from lit_hier.errors import InputError

_HINT: Final = "give the .ckpt file that `lit-hier fit` wrote"


def read_checkpoint(path: str | PathLike[str], argument: str) -> dict[str, Any]:
    """Read a Lightning checkpoint; one that holds code is refused, not run.

    Args:
        path: The file.
        argument: The user's name for it, for the error's message.

    Returns:
        Plain tensors and primitives, among them a `state_dict`.

    Raises:
        InputError: There is no such file, or it is no checkpoint of plain tensors.
    """
    try:
        with warnings.catch_warnings():
            # About the pickle's protocol, of files that are then refused anyway.
            warnings.simplefilter("ignore", UserWarning)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{argument}: cannot read {path}: {error.strerror}; {_HINT}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"{argument}: {path} is no checkpoint of plain tensors; {_HINT}"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{argument}: {path} is no checkpoint of Lightning; {_HINT}")
    return checkpoint
