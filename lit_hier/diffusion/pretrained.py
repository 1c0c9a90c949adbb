"""Pretrained diffusion models by path or name."""

import inspect
import json
import re
from math import prod
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.logging import disable_progress_bar
from torch.func import functional_call

from lit_hier.diffusion.adm import adm_scheduler, load_adm
from lit_hier.diffusion.adm_flags import ADM_SUFFIXES, ADMFlags
from lit_hier.errors import InputError, one_line
from lit_hier.io.checkpoints import find_not_finite, read_header, read_state_dict
from lit_hier.io.safe_read import check_file, read_file

_KINDS: Final = (".safetensors", ".bin")  # of weights; the first is preferred
_WEIGHTS: Final = "diffusion_pytorch_model"
_FLOATING: Final = re.compile(r"B?F\d")  # types of safetensors
_MAX_SETTINGS: Final = 2**21  # bytes
_MAX_NUMBER: Final = 10**6  # of layers, channels, steps or pixels
_WEIGHT_FILE: Final = re.compile(
    r"diffusion_pytorch_model(\.(?P<variant>.+?))?(-\d+-of-\d+)?\.(safetensors|bin)"
)
_HINT = "give an unconditional model of pixels, such as a DDPMPipeline"


def load_pretrained(
    source: str, argument: str = "pretrained", adm: ADMFlags | None = None
) -> tuple[Any, Any]:
    """Load an unconditional diffusion model and the scheduler that it was trained with.

    A pipeline folder can make diffusers run arbitrary code. Here it may name only the classes of
    diffusers that are needed, and weights are read as plain tensors.

    Args:
        source: An ADM checkpoint (`.pt`), a diffusers pipeline folder, or a name on the hub.
        argument: The user's name for it, for the error message.
        adm: How the network of an ADM checkpoint was trained.

    Returns:
        A `UNet2DModel` in evaluation mode, and a scheduler.

    Raises:
        InputError: The model does not exist, or is not an unconditional model of pixels.
    """
    if source.endswith(ADM_SUFFIXES):
        flags = adm or ADMFlags()
        model = load_adm(source, flags, argument)
        learn_sigma = model.config.out_channels == 2 * model.config.in_channels
        return model, adm_scheduler(flags, learn_sigma)
    if adm is not None:
        raise InputError(
            f"adm: {argument} is {source}, not an ADM checkpoint (.pt); leave out adm, as a"
            " pipeline has its own settings"
        )
    folder = Path(source)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise InputError(
            f"{argument}: {source} is not a pipeline folder: it has no model_index.json"
        )
    disable_progress_bar()
    try:
        if not folder.is_dir():
            folder = _download(source)
        index = _read_json(folder / "model_index.json")
        parts = {name: part for name, part in index.items() if name[:1] != "_" and any(part or ())}
        _check_parts(parts, f"{argument}: {source}")
        scheduler_class = _scheduler_class(parts["scheduler"][1])
        scheduler_folder = _part(folder, "scheduler")
        _check_config(scheduler_class, scheduler_folder / "scheduler_config.json")
        model_folder = _part(folder, "unet")
        _check_config(UNet2DModel, model_folder / "config.json")
        variant = _find_variant(model_folder)
        _check_weights(model_folder, argument, variant)
        model, found = UNet2DModel.from_pretrained(
            model_folder, low_cpu_mem_usage=False, output_loading_info=True, variant=variant
        )
        for kind in ("missing", "unexpected", "mismatched"):
            if names := found[f"{kind}_keys"]:
                raise ValueError(f"its weights do not fit: {min(map(str, names)):.80} is {kind}")
        if model.class_embedding is not None:
            raise InputError(f"{argument}: {source} is a class-conditional model; {_HINT}")
        if invalid := find_not_finite(model.state_dict()):
            raise ValueError(f"{invalid[0]:.80} has values that are not finite")
        _dry_run(model.float())  # its files may mix precisions
        return model.eval(), scheduler_class.from_pretrained(scheduler_folder)
    except InputError:
        raise
    except Exception as error:  # damaged files may fail anywhere in diffusers
        plain = isinstance(error, OSError | ValueError | RuntimeError) and str(error)
        reason = one_line(error)[:240] if plain else "its files are damaged"
        reason = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason)
        raise InputError(f"{argument}: cannot load {source}: {reason}") from error


def _download(source: str) -> Path:
    try:
        return Path(DiffusionPipeline.download(source))
    except Exception as error:  # of many libraries
        reason = one_line(error)[:100] or type(error).__name__
        raise ValueError(
            f"there is no such folder, and the hub does not give it: {reason}; give the folder of"
            " a pipeline or its name on the hub"
        ) from error


def _find_variant(folder: Path) -> str | None:
    """Return the variant of the weights in a folder, such as `fp16`; None if they have no name."""
    matches = [_WEIGHT_FILE.fullmatch(path.name) for path in folder.iterdir()]
    variants = {match["variant"] for match in matches if match}
    if len(variants) > 1 and None not in variants:
        raise ValueError(f"it has weights of {', '.join(sorted(variants))}; keep those of one")
    return None if None in variants else next(iter(variants), None)


def _check_parts(parts: dict[str, Any], where: str) -> None:
    if not parts:
        raise ValueError("its model_index.json names no parts")
    if set(parts) != {"unet", "scheduler"}:
        raise InputError(f"{where} consists of {', '.join(sorted(parts)):.120}; {_HINT}")
    for name, part in parts.items():
        if not (isinstance(part, list) and len(part) == 2 and part[0] == "diffusers"):
            raise InputError(
                f"{where}: its {name} is {part!s:.80}, not a class of diffusers; {_HINT}"
            )
    if parts["unet"][1] != "UNet2DModel":
        raise InputError(
            f"{where}: its unet is {parts['unet'][1]!s:.80}, not UNet2DModel; {_HINT}"
        )


def _scheduler_class(name: Any) -> Any:
    found = getattr(diffusers, str(name), None)
    if not (inspect.isclass(found) and issubclass(found, SchedulerMixin)):
        raise ValueError(f"{name!s:.80} is not a scheduler of diffusers")
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
    config = _read_json(path)
    if "quantization_config" in config:
        raise ValueError(f"{path.name} describes quantized weights; give those of full precision")
    for name, value in config.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > _MAX_NUMBER:
                raise ValueError(f"{path.name}: {name:.80} is above {_MAX_NUMBER}")
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        default, value = parameter.default, config.get(name)
        if value is None or default is None or default is inspect.Parameter.empty:
            continue
        types: tuple[type, ...] = {float: (float, int), tuple: (tuple, list)}.get(
            type(default), (type(default),)
        )
        if not isinstance(value, types) or isinstance(value, bool) != isinstance(default, bool):
            expected = type(default).__name__
            raise ValueError(
                f"{path.name}: {name} is {value!r:.60}; give a value of type {expected}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    """Read settings.

    Raises:
        ValueError: There are none, or too many.
    """
    if check_file(path) > _MAX_SETTINGS:
        raise ValueError(f"{path.name} is larger than {_MAX_SETTINGS} bytes")
    config = json.loads(read_file(path))
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} does not hold settings")
    return config


def _check_weights(folder: Path, argument: str, variant: str | None) -> None:
    """Check that a model's files hold all its numbers, before memory is allocated for these.

    Raises:
        InputError: A file cannot be read.
        ValueError: The settings need more numbers than the files hold.
    """
    shapes = _read_shapes(folder, argument, variant)
    config = _read_json(folder / "config.json")
    num_blocks = len(config.get("down_block_types") or "") + len(
        config.get("block_out_channels") or ""
    )
    if num_blocks * (config.get("layers_per_block") or 1) > len(shapes):
        raise ValueError("its config.json names more layers than its weights have")
    with torch.device("meta"):
        outline = UNet2DModel.from_config(config).state_dict()
    for name, value in outline.items():
        if name in shapes and shapes[name] != value.shape:  # old pipelines have other names
            raise ValueError(f"its weights do not fit: {name:.80} has another shape")
    if sum(x.numel() for x in outline.values()) > sum(map(prod, shapes.values())):
        missing = next((name for name in outline if shapes.get(name) != outline[name].shape), "")
        raise ValueError(f"its weights do not fit: {missing} is missing, or has another shape")


def _read_shapes(folder: Path, argument: str, variant: str | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors by name, from the files that diffusers chooses."""
    for path in folder.glob(f"{_WEIGHTS}*"):
        check_file(path)
    infix = "" if variant is None else f".{variant}"
    index = folder / f"{_WEIGHTS}.safetensors.index{infix}.json"
    candidates = [f"{_WEIGHTS}{infix}{kind}" for kind in _KINDS]
    names = [name for name in candidates if (folder / name).exists()][:1]
    if index.exists():
        names = sorted(set(_read_json(index)["weight_map"].values()))
        if not all(re.fullmatch(rf"{_WEIGHTS}[\w.-]*\.safetensors", name) for name in names):
            raise ValueError(f"{index.name} names files that are not its own")
    if not names:
        raise ValueError(f"{folder} has no {_WEIGHTS}{_KINDS[0]}")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        if name.endswith(_KINDS[0]):
            header = read_header(folder / name, argument, _HINT)
            other = [key for key, (kind, _) in header.items() if not _FLOATING.match(kind)]
            shapes |= {key: shape for key, (_, shape) in header.items()}
        else:
            state = read_state_dict(folder / name, argument, _HINT)
            other = [key for key, value in state.items() if not value.is_floating_point()]
            shapes |= {key: tuple(value.shape) for key, value in state.items()}
        if other:
            raise ValueError(f"its weights are not all floating-point numbers: {other[0]:.80}")
    return shapes
