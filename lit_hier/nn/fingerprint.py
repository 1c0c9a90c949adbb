"""A digest of what decides a network's output, as a key for results that are kept."""

import hashlib
import inspect
from typing import Any

import torch
from torch import nn


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal digits, of a network's architecture and weights.

    It covers the classes of all modules, their public attributes that are plain values, the state
    dict, and the source code of the outermost class, which users edit.
    """
    try:
        source = inspect.getsource(type(network))
    except (OSError, TypeError):  # defined in an interactive session
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
