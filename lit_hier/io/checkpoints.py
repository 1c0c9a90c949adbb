"""Reading checkpoints without running anything that they hold; telling weights apart."""

import hashlib
import inspect
import warnings
from os import PathLike
from typing import Any, Final

import torch
from torch import nn

from lit_hier.errors import InputError
from lit_hier.io.safe_read import check_file

_HINT: Final = "give the .ckpt file that `lit-hier fit` wrote"


def check_training_set(trained_on: str, training_set: str, argument: str) -> None:
    """Refuse weights together with other data than those whose training set they have seen.

    Args:
        trained_on: What the weights say of it; empty if they say nothing.
        training_set: What the data say (`RHMDataModule.training_set`); empty likewise.
        argument: The user's name for the weights, for the error's message.

    Raises:
        InputError: Both say something, and not the same.
    """
    if trained_on and training_set and trained_on != training_set:
        raise InputError(
            f"{argument}: the network was trained on {trained_on}, but the data are"
            f" {training_set}: the grammar would be another, or data held out here were"
            " trained on; give the data module the arguments of the training run"
        )


def fingerprint(network: nn.Module) -> str:
    """Give the SHA-256, in hexadecimal digits, of what a network is made of and of its weights.

    Counted are the classes of its modules, what their constructors were told and kept as plain
    values, and the weights; the source code of the outermost class too, as users change theirs.
    """
    try:
        source = inspect.getsource(type(network))
    except (OSError, TypeError):  # made in a shell
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
    """Read a file that `torch.save` wrote; one that holds code is refused, not run.

    Args:
        path: The file.
        argument: The user's name for it, for the error's message.
        hint: What file to give instead.

    Returns:
        Plain tensors and primitives, on the CPU.

    Raises:
        InputError: There is no such file, or it is none of plain tensors.
    """
    try:
        with warnings.catch_warnings():
            # About the pickle's protocol, of files that are then refused anyway.
            warnings.simplefilter("ignore", UserWarning)
            check_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{argument}: cannot read {path}: {error.strerror}; {hint}") from error
    except Exception as error:  # a damaged file may make the reader stumble anywhere
        raise InputError(
            f"{argument}: {path} is no checkpoint of plain tensors; {hint}"
        ) from error


def read_checkpoint(path: str | PathLike[str], argument: str) -> dict[str, Any]:
    """Read a Lightning checkpoint: see `read_tensors`.

    Returns:
        Plain tensors and primitives, among them a `state_dict`.
    """
    checkpoint = read_tensors(path, argument, _HINT)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{argument}: {path} is no checkpoint of Lightning; {_HINT}")
    return checkpoint
