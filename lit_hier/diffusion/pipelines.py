"""Pipeline folders of diffusers, written whole or not at all."""

import shutil
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

from diffusers import DDPMPipeline


def write_pipeline(model: Any, scheduler: Any, folder: str | PathLike[str]) -> None:
    """Write a model and its scheduler as a folder; one of that name is replaced.

    Args:
        model: A `UNet2DModel`.
        scheduler: A diffusers scheduler.
        folder: Where; the folders above it are made.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        DDPMPipeline(model, scheduler).save_pretrained(draft)
        draft.chmod(0o755)
        if target.is_dir():
            shutil.rmtree(target)
        draft.replace(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
