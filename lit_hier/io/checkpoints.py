"""Reading checkpoints without running code from them; telling weights apart."""

import hashlib
import inspect
import warnings
from os import PathLike
from typing import Any, Final

import torch
from torch import nn

from lit_hier.errors import InputError
from lit_hier.io.formats import CHECKPOINT_FORMAT, FORMAT_KEY, check_format
from lit_hier.io.safe_read import check_file

_HINT: Final = "give the .ckpt file that `lit-hier fit` wrote"


def check_training_set(trained_on: str, training_set: str, argument: str) -> None:
    """Check that weights were trained on the training set that belongs to the data.

    Args:
        trained_on: Training set that the checkpoint names; empty if it names none.
        training_set: That of the data (`RHMDataModule.training_set`); empty if it has no name.
        argument: The user's name for the weights, for the error's message.

    Raises:
        InputError: Both have names, and they differ.
    """
    if trained_on and training_set and trained_on != training_set:
        raise InputError(
            f"{argument}: the network was trained on {trained_on}, but the data are"
            f" {training_set}: the grammar would differ, or held-out data would be among the"
            " training data; give the data module the arguments of the training run"
        )


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256 of a network's structure and weights, in hexadecimal digits.

    It covers the classes of the modules, the plain values among their attributes, the weights, and
    the source code of the outermost class, which a user may edit.
    """
    try:
        source = inspect.getsource(type(network))
    except (OSError, TypeError):  # defined in an interactive shell
        source = ""
    digest = hashlib.sha256(source.encode())
    for name, module in network.named_modules():
        kind = type(module)
        plain = {
            key: value
            for key, value in vars(module).items()
            if key[0] != "_" and key != "training" and _is_plain(value)
        }
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {plain}".encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def read_tensors(path: str | PathLike[str], argument: str, hint: str) -> Any:
    """Read a tensors-only file that `torch.save` wrote; code in it is never run.

    Args:
        path: The file.
        argument: The user's name for it, for the error's message.
        hint: Which file to give instead, for the error's message.

    Returns:
        Tensors and primitives, on the CPU.

    Raises:
        InputError: There is no such file, or it holds anything else.
    """
    try:
        with warnings.catch_warnings():
            # About the pickle protocol of files that are rejected anyway.
            warnings.simplefilter("ignore", UserWarning)
            check_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
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
    check_format(checkpoint.get(FORMAT_KEY), CHECKPOINT_FORMAT, argument, path)
    return checkpoint
