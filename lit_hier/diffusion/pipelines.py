"""Pipeline folders of diffusers, written atomically."""

import shutil
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

from lit_hier.errors import InputError


def write_pipeline(model: Any, scheduler: Any, folder: str | PathLike[str]) -> None:
    """Write a model and its scheduler as a pipeline folder; an existing pipeline is replaced.

    Args:
        model: A `UNet2DModel`.
        scheduler: A diffusers scheduler.
        folder: The target; missing parents are created.

    Raises:
        InputError: The target holds something other than a pipeline.
    """
    from diffusers import DDPMPipeline  # takes seconds

    target = Path(folder)
    check_target(target, "folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        DDPMPipeline(model, scheduler).save_pretrained(temporary)
        temporary.chmod(0o755)
        if target.is_dir():
            old = temporary.with_name(f"{temporary.name}.old")
            target.replace(old)
            temporary.replace(target)
            shutil.rmtree(old)
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
    if target.is_file() or (
        target.is_dir() and any(target.iterdir()) and not (target / "model_index.json").is_file()
    ):
        raise InputError(
            f"{argument}: {folder} holds something other than a pipeline; give a new folder, as it"
            " would be overwritten"
        )
