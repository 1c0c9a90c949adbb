"""Files in the folder of a data set of torchvision that torch reads, checked before it does."""

from pathlib import Path
from typing import Any

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_tensors

_META = "meta.bin"  # of ImageNet, written where it is missing
_HINT = "remove it, and torchvision prepares it again from the archive, or give ImageFiles"


def check_torch_files(root: Any, class_name: str) -> None:
    """Check the files that a data set of torchvision reads as tensors, or would write.

    Args:
        root: The folder of the data set.
        class_name: The name of its class.

    Raises:
        InputError: One is not a tensors-only file within the limits of `read_tensors`, or is a
            link to nothing, through which torchvision would write elsewhere.
    """
    if not isinstance(root, str | Path):
        return
    meta = Path(root).expanduser() / _META
    if meta.is_symlink() and not meta.exists():
        raise InputError(f"root: {meta} is a link to nothing; remove it")
    # MNIST and its like, as older versions of torchvision prepared them.
    prepared = sorted(meta.parent.glob(f"{class_name}/processed/*.pt"))
    for path in (meta, *prepared):
        if path.exists():
            read_tensors(path, "root", _HINT)
