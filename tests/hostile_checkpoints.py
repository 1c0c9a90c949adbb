"""Files of torch that hold hostile values: small ones that would be large, or something else."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def laughs(leaf: Any = 0) -> Any:
    """Return nested lists of ten references each to the next: 10^12 leaves."""
    value = leaf
    for _ in range(12):
        value = [value] * 10
    return value


def deep(num_levels: int = 100) -> Any:
    """Return a list in a list, and so on."""
    value: Any = []
    for _ in range(num_levels):
        value = [value]
    return value


def cyclic() -> Any:
    """Return a list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


WHOLE = torch.zeros(10**4)
VALUES: dict[str, Callable[[], Any]] = {
    "laughs": laughs,
    "texts": lambda: [["x" * 10**5] * 1000] * 1000,
    "deep": deep,
    "cyclic": cyclic,
    "integer": lambda: 10**6000,
    "expanded": lambda: torch.zeros(1).expand(10**6, 10**6),
    "views": lambda: [WHOLE.view(10**4) for _ in range(2000)],
    "meta": lambda: torch.empty(3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


class _Call:
    """Is pickled as a call of what torch allows."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def uninitialized(path: Path) -> None:
    """Write a state dict whose tensor is memory that nothing has filled."""
    torch.save({"state_dict": {"network.x": _Call(torch.Tensor, 3, 3)}}, path)


def bytes_of_zeros(path: Path) -> None:
    """Write a checkpoint with 64 GiB of zeros, as a call."""
    torch.save({"state_dict": {}, "x": _Call(bytearray, 2**36)}, path)


def compressed(path: Path) -> None:
    """Write a checkpoint with compressed members."""
    content = io.BytesIO()
    torch.save({"state_dict": {"network.x": torch.zeros(2**22)}}, content)
    with (
        zipfile.ZipFile(content) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))


LONG = b"\x80\x02" + b"]" * (3 * 2**20) + b"."  # each byte would be an object


def long_structure(path: Path) -> None:
    """Write a checkpoint whose pickle is long."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", LONG)


def long_legacy(path: Path) -> None:
    """Write the same in the format of old versions of torch."""
    path.write_bytes(LONG)


def broken_zip(path: Path) -> None:
    """Write an archive without a list of its members."""
    path.write_bytes(b"PK\x03\x04" + bytes(100))


def unending_pickle(path: Path) -> None:
    """Write a pickle that does not end."""
    path.write_bytes(pickle.dumps([1, 2, 3], 2)[:-1])


FILES: list[Callable[[Path], None]] = [
    uninitialized, bytes_of_zeros, compressed, long_structure, long_legacy, broken_zip,
    unending_pickle,
]  # fmt: skip


def safetensors_header(length: int, header: bytes) -> bytes:
    """Return a file of safetensors without tensors."""
    return struct.pack("<Q", length) + header
