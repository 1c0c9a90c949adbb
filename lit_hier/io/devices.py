"""Copies between the CPU and a device, made so that neither waits needlessly for the other.

A GPU computes while the CPU goes on. The CPU waits for all that the GPU has still to do where a
value is read, and where memory that is not pinned is copied.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_UNPINNED: Final = ("cpu", "mps")  # types of devices that do not copy from pinned memory
_COPIES: Final = WeakTensorKeyDictionary()  # of constants, by device


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, by pinned memory, without waiting for it.

    Args:
        x: On the CPU; a tensor of another device is copied as `Tensor.to` does.
        device: The device.

    Returns:
        The copy; `x` itself if it is on this device.
    """
    if x.device.type != "cpu" or device.type in _UNPINNED:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def download(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of one device to the CPU, all those of a data type at once.

    Returns:
        The copies, in order; the tensors themselves if they are on the CPU.
    """
    if all(x.device.type == "cpu" for x in tensors):
        return list(tensors)
    copies: list[Tensor] = list(tensors)
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        places = [k for k, x in enumerate(tensors) if x.dtype == dtype]
        joined = torch.cat([tensors[k].flatten() for k in places]).cpu()
        parts = joined.split([tensors[k].numel() for k in places])
        for k, part in zip(places, parts, strict=True):
            copies[k] = part.view(tensors[k].shape)
    return copies


def constant(x: Tensor, device: torch.device) -> Tensor:
    """Return the copy on a device of a tensor that nothing changes; it is copied once.

    Args:
        x: On the CPU.
        device: The device.

    Returns:
        The copy, which lives as long as `x`; `x` itself for the CPU.
    """
    if device == x.device:
        return x
    copies: dict[torch.device, Tensor] = _COPIES.setdefault(x, {})
    if device not in copies:
        with torch.inference_mode(False):  # training may use it, too
            copies[device] = upload(x, device)
    return copies[device]
