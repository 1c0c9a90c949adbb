"""Pretrained diffusion models by path or name."""

from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

from lit_hier.diffusion.adm import adm_scheduler, load_adm
from lit_hier.errors import InputError

_SUFFIXES = (".pt", ".pth")


def load_pretrained(source: str, argument: str = "pretrained") -> tuple[Any, Any]:
    """Load an unconditional diffusion model and the scheduler that it was trained with.

    Args:
        source: An ADM checkpoint (`.pt`), a diffusers pipeline folder, or a name on the hub.
        argument: The user's name for it, for the error's message.

    Returns:
        A `UNet2DModel` in evaluation mode, and a scheduler.

    Raises:
        InputError: There is no such model, or it is not unconditional on pixels.
    """
    if source.endswith(_SUFFIXES):
        return load_adm(source, argument=argument), adm_scheduler()
    if Path(source).is_dir() and not Path(source, "model_index.json").is_file():
        raise InputError(f"{argument}: {source} is no pipeline folder: it has no model_index.json")
    disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, low_cpu_mem_usage=False)
    except Exception as error:  # a damaged folder may make diffusers stumble anywhere
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{argument}: cannot load {source}: {reason}") from error
    parts = set(pipeline.components)
    if parts != {"unet", "scheduler"}:
        raise InputError(
            f"{argument}: {source} is made of {', '.join(sorted(parts))};"
            " give an unconditional model of pixels, such as a DDPMPipeline"
        )
    return pipeline.unet.eval(), pipeline.scheduler
