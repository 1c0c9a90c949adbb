"""Pipeline folders of diffusers, written whole or not at all."""

import shutil
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

from lit_hier.errors import InputError


def write_pipeline(model: Any, scheduler: Any, folder: str | PathLike[str]) -> None:
    """Write a model and its scheduler as a folder; a pipeline of that name is replaced.

    Args:
        model: A `UNet2DModel`.
        scheduler: A diffusers scheduler.
        folder: Where; the folders above it are made.

    Raises:
        InputError: Something else is there, which would be lost.
    """
    from diffusers import DDPMPipeline  # takes seconds, for those who write one

    target = Path(folder)
    check_target(target, "folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        DDPMPipeline(model, scheduler).save_pretrained(draft)
        draft.chmod(0o755)
        if target.is_dir():
            old = draft.with_name(f"{draft.name}.old")
            target.replace(old)
            draft.replace(target)
            shutil.rmtree(old)
        else:
            draft.replace(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def check_target(folder: str | PathLike[str], argument: str) -> None:
    """Refuse to write a pipeline over anything but a pipeline.

    Args:
        folder: Where it is to be written.
        argument: The user's name for it, for the error's message.

    Raises:
        InputError: There is a file, or a folder that holds something else.
    """
    target = Path(folder)
    if target.is_file() or (
        target.is_dir() and any(target.iterdir()) and not (target / "model_index.json").is_file()
    ):
        raise InputError(
            f"{argument}: {folder} holds something else than a pipeline, which would be lost; give"
            " a new folder"
        )
