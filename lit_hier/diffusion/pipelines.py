"""Pipeline folders of diffusers, written atomically."""

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Final

from lit_hier.errors import InputError
from lit_hier.io.atomic import check_writable

_LOG: Final = logging.getLogger("lit_hier")
_INDEX: Final = "model_index.json"
# The files of a pipeline of a U-Net, which a new one replaces.
_FILES: Final = re.compile(
    rf"{re.escape(_INDEX)}|scheduler/scheduler_config\.json"
    r"|unet/(config\.json|diffusion_pytorch_model[\w.-]*\.(safetensors|bin|index\.json))"
)
_FOLDERS: Final = ("scheduler", "unet")


def write_pipeline(model: Any, scheduler: Any, folder: str | PathLike[str]) -> None:
    """Write a model and its scheduler as a pipeline folder; an existing pipeline is replaced.

    Files that are not a pipeline's are never removed: should an existing pipeline's folder hold
    any by now, they stay in a folder beside it, and a warning names it.

    Args:
        model: A `UNet2DModel`.
        scheduler: A diffusers scheduler.
        folder: The target; missing parents are created.

    Raises:
        InputError: The target holds something other than a pipeline.
        OSError: It cannot be written.
    """
    from diffusers import DDPMPipeline  # takes seconds

    target = Path(os.path.realpath(folder))  # raises nothing for links in a circle
    if not (target / _INDEX).is_file():
        check_target(target, "folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        DDPMPipeline(model, scheduler).save_pretrained(temporary)
        temporary.chmod(0o755)
        if target.is_dir():
            old = target.with_name(f"{temporary.name.removeprefix('.')}.old")
            target.replace(old)
            temporary.replace(target)
            _remove_pipeline(old)
        else:
            temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_target(folder: str | PathLike[str], argument: str) -> None:
    """Check that a folder can be replaced by a pipeline: it is missing, empty or a pipeline.

    Args:
        folder: The target of `write_pipeline`.
        argument: The user's name for it, for the error message.

    Raises:
        InputError: The target is a file, or a folder that holds something other than a pipeline.
    """
    target = Path(folder)
    try:
        exists = target.exists()
        names = set(_list_names(target)) if target.is_dir() else set()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{argument}: cannot use {str(folder)!r:.120}: {reason}; give another folder"
        ) from error
    is_pipeline = _INDEX in names and all(map(_FILES.fullmatch, names))
    if (exists and not target.is_dir()) or (names and not is_pipeline):
        raise InputError(
            f"{argument}: {folder} holds something other than a pipeline; give a new folder, as it"
            " would be overwritten"
        )


def check_target_writable(folder: str | PathLike[str]) -> None:
    """Check that `write_pipeline` can write beside a folder and replace it.

    Raises:
        OSError: It cannot.
    """
    target = Path(os.path.realpath(folder))
    if target.is_mount():
        raise OSError(errno.EBUSY, "a mount point cannot be replaced", str(target))
    check_writable(target.parent)


def _list_names(folder: Path) -> Iterator[str]:
    """List what a folder holds, but for folders of a pipeline; links are not followed."""
    for path in folder.iterdir():
        if path.name in _FOLDERS and path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                is_file = inner.is_file() and not inner.is_symlink()
                yield f"{path.name}/{inner.name}" if is_file else f"{path.name}/{inner.name}/"
        else:
            is_file = path.is_file() and not path.is_symlink()
            yield path.name if is_file else f"{path.name}/"


def _remove_pipeline(folder: Path) -> None:
    """Remove a pipeline's own files, and the folder if nothing else is in it."""
    try:
        for name in list(_list_names(folder)):
            if _FILES.fullmatch(name):
                (folder / name).unlink()
        for part in _FOLDERS:
            path = folder / part
            if path.is_dir() and not path.is_symlink() and not os.listdir(path):
                path.rmdir()
        folder.rmdir()
    except OSError:
        _LOG.warning("%s holds files of the previous folder that are no pipeline's", folder)
