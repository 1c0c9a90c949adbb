"""Pretrained diffusion models by path or name."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.logging import disable_progress_bar
from torch.func import functional_call

from lit_hier.diffusion.adm import adm_scheduler, load_adm
from lit_hier.errors import InputError, one_line
from lit_hier.io.safe_read import check_file, read_file

_SUFFIXES = (".pt", ".pth")
_WEIGHTS = re.compile(
    r"diffusion_pytorch_model(\.(?P<variant>.+?))?(-\d+-of-\d+)?\.(safetensors|bin)"
)
_HINT = "give an unconditional model of pixels, such as a DDPMPipeline"


def load_pretrained(source: str, argument: str = "pretrained") -> tuple[Any, Any]:
    """Load an unconditional diffusion model and the scheduler that it was trained with.

    A pipeline folder can make diffusers run arbitrary code. Here it may name only the classes of
    diffusers that are needed, and weights are read as plain tensors.

    Args:
        source: An ADM checkpoint (`.pt`), a diffusers pipeline folder, or a name on the hub.
        argument: The user's name for it, for the error message.

    Returns:
        A `UNet2DModel` in evaluation mode, and a scheduler.

    Raises:
        InputError: The model does not exist, or is not an unconditional model of pixels.
    """
    if source.endswith(_SUFFIXES):
        return load_adm(source, argument=argument), adm_scheduler()
    folder = Path(source)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise InputError(
            f"{argument}: {source} is not a pipeline folder: it has no model_index.json"
        )
    disable_progress_bar()
    try:
        if not folder.is_dir():
            folder = Path(DiffusionPipeline.download(source))
        index = json.loads(read_file(folder / "model_index.json"))
        parts = {name: part for name, part in index.items() if name[:1] != "_" and any(part or ())}
        _check_parts(parts, f"{argument}: {source}")
        scheduler_class = _scheduler_class(parts["scheduler"][1])
        scheduler_folder = _part(folder, "scheduler")
        _check_config(scheduler_class, scheduler_folder / "scheduler_config.json")
        model_folder = _part(folder, "unet")
        _check_config(UNet2DModel, model_folder / "config.json")
        for weights in model_folder.glob("diffusion_pytorch_model*"):
            check_file(weights)
        model = UNet2DModel.from_pretrained(
            model_folder, low_cpu_mem_usage=False, variant=_find_variant(model_folder)
        )
        if model.class_embedding is not None:
            raise InputError(f"{argument}: {source} is a class-conditional model; {_HINT}")
        _dry_run(model)
        return model.eval(), scheduler_class.from_pretrained(scheduler_folder)
    except InputError:
        raise
    except Exception as error:  # damaged files may fail anywhere in diffusers
        plain = isinstance(error, OSError | ValueError | RuntimeError) and str(error)
        reason = one_line(error)[:200] if plain else "its files are damaged"
        reason = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason)
        raise InputError(f"{argument}: cannot load {source}: {reason}") from error


def _find_variant(folder: Path) -> str | None:
    """Return the variant of the weights in a folder, such as `fp16`; None if they have no name."""
    matches = [_WEIGHTS.fullmatch(path.name) for path in folder.iterdir()]
    variants = {match["variant"] for match in matches if match}
    if len(variants) > 1 and None not in variants:
        raise ValueError(f"it has weights of {', '.join(sorted(variants))}; keep those of one")
    return None if None in variants else next(iter(variants), None)


def _check_parts(parts: dict[str, Any], where: str) -> None:
    if not parts:
        raise ValueError("its model_index.json names no parts")
    if set(parts) != {"unet", "scheduler"}:
        raise InputError(f"{where} consists of {', '.join(sorted(parts))}; {_HINT}")
    for name, part in parts.items():
        if not (isinstance(part, list) and len(part) == 2 and part[0] == "diffusers"):
            raise InputError(f"{where}: its {name} is {part}, not a class of diffusers; {_HINT}")
    if parts["unet"][1] != "UNet2DModel":
        raise InputError(f"{where}: its unet is {parts['unet'][1]}, not UNet2DModel; {_HINT}")


def _scheduler_class(name: Any) -> Any:
    found = getattr(diffusers, str(name), None)
    if not (inspect.isclass(found) and issubclass(found, SchedulerMixin)):
        raise ValueError(f"{name} is not a scheduler of diffusers")
    return found


def _dry_run(model: Any) -> None:
    """Run a model on the meta device: settings may load and yet not fit together."""
    side = 2 ** (len(model.config.block_out_channels) + 1)
    shape = (1, model.config.in_channels, side, side)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = {name: value.to("meta") for name, value in state.items()}
    functional_call(model, meta, (torch.zeros(shape, device="meta", dtype=model.dtype), 1))


def _part(folder: Path, name: str) -> Path:
    """Return the folder of a part; old pipelines keep all parts in one folder."""
    return folder / name if (folder / name).is_dir() else folder


def _check_config(kind: Any, path: Path) -> None:
    """Check that settings have the types of a class's defaults, which it does not check itself.

    Raises:
        ValueError: One has another type.
    """
    config = json.loads(read_file(path))
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} does not hold settings")
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        default, value = parameter.default, config.get(name)
        if value is None or default is None or default is inspect.Parameter.empty:
            continue
        types: tuple[type, ...] = {float: (float, int), tuple: (tuple, list)}.get(
            type(default), (type(default),)
        )
        if not isinstance(value, types) or isinstance(value, bool) != isinstance(default, bool):
            expected = type(default).__name__
            raise ValueError(f"{path.name}: {name} is {value!r}; give a value of type {expected}")
