"""A digest of what determines a network's output, as a key for results that are saved."""

import hashlib
import inspect
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn

_LIBRARIES: Final = {"diffusers", "lit_hier", "timm", "torch", "torchvision"}


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal digits, of a network's architecture and weights.

    It covers the classes of all modules, their public attributes that are plain values or tensors,
    all parameters and buffers, and the source code of the outermost class and of every class that
    is not a library's.
    """
    digest = hashlib.sha256(_source(type(network)).encode())
    kinds = dict.fromkeys(type(module) for module in network.modules())
    for kind in kinds:
        if kind is not type(network) and kind.__module__.partition(".")[0] not in _LIBRARIES:
            digest.update(_source(kind).encode())
    attributes: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        kind = type(module)
        public = {key: value for key, value in vars(module).items() if key[0] != "_"}
        plain = {
            key: value for key, value in public.items() if key != "training" and _is_plain(value)
        }
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {plain}".encode())
        attributes |= {f"{name}.{k}": x for k, x in public.items() if isinstance(x, Tensor)}
    state = network.state_dict()
    # Buffers that are not persistent have no entry in the state dict.
    hidden = [(name, value) for name, value in network.named_buffers() if name not in state]
    for name, value in chain(state.items(), hidden, attributes.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # defined in an interactive session
        return ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
