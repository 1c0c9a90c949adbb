r"""Lossless conversion of OpenAI's ADM checkpoints to diffusers models.

.. code-block:: console

    python -m lit_hier.diffusion.adm 256x256_diffusion_uncond.pt adm-256

writes a pipeline folder that `diffusers.DiffusionPipeline.from_pretrained` reads; flags of
guided-diffusion say how the network was trained (`ADMFlags`). The checkpoint is a state dict of
the U-Net of guided-diffusion: n residual blocks per level in the encoder and n + 1 in the decoder,
attention at some levels, and between levels a residual block (`resblock_updown`) or a convolution.
The parameters correspond as follows, with k = n + 1:

============================================ ==================================================
guided-diffusion                             diffusers `UNet2DModel`
============================================ ==================================================
`time_embed.0`, `.2`                         `time_embedding.linear_1`, `linear_2`
`input_blocks.0.0`, `out.0`, `out.2`         `conv_in`, `conv_norm_out`, `conv_out`
`input_blocks.{1 + ki + j}.0` (`.1`)         `down_blocks.i.resnets.j` (`attentions.j`)
`input_blocks.{k + ki}.0`                    `down_blocks.i.downsamplers.0`
`middle_block.0`, `.1`, `.2`                 `mid_block.resnets.0`, `attentions.0`, `resnets.1`
`output_blocks.{ku + j}.0` (`.1`)            `up_blocks.u.resnets.j` (`attentions.j`)
`output_blocks.{ku + n}`, last entry         `up_blocks.u.upsamplers.0`
============================================ ==================================================

Source: Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis" (2021).
"""

import math
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DModel
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from lit_hier.diffusion.adm_flags import FLAG_NAMES, ADMFlags
from lit_hier.diffusion.pipelines import check_target_writable, write_pipeline
from lit_hier.errors import InputError, one_line
from lit_hier.io.checkpoints import load_state, read_state_dict

_PUBLISHED: Final = ADMFlags()
_RESCALED_STEPS: Final = 1000  # steps as the network sees them; also of the linear schedule
_HINT: Final = "give an unconditional ADM checkpoint, such as 256x256_diffusion_uncond.pt"
_INNER: Final = {
    # A convolution that changes the resolution.
    "op": "conv",
    "conv": "conv",
    # A residual block.
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION: Final = {"norm": "group_norm", "proj_out": "to_out.0"}
_ENDS: Final = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}


class _Layout(NamedTuple):
    """What names and shapes tell of a network.

    Attributes:
        num_res_blocks: Residual blocks per level of the encoder.
        channels: Channels of each level.
        attends: Whether a level has attention.
        upsamplers: The entries of output blocks that change the resolution, by name.
        updown: Whether residual blocks change the resolution.
        scale_shift: Whether the time scales and shifts.
    """

    num_res_blocks: int
    channels: tuple[int, ...]
    attends: tuple[bool, ...]
    upsamplers: dict[str, int]
    updown: bool
    scale_shift: bool


def _read_layout(weights: Mapping[str, Tensor]) -> _Layout:
    """Infer the layout from the names and shapes of a state dict.

    Raises:
        KeyError: A parameter is missing that every ADM network has.
        ValueError: The blocks do not form levels.
    """
    upsamplers: dict[str, int] = {}
    numbers = [0]
    for name in weights:
        side, *parts = name.split(".")
        if side == "output_blocks":
            number, entry, inner = int(parts[0]), int(parts[1]), parts[2]
            numbers.append(number)
            if inner == "conv" or (entry and inner == "in_layers"):
                upsamplers[f"output_blocks.{number}.{entry}"] = number
    num_levels, num_blocks = len(upsamplers) + 1, max(numbers) + 1
    per_level = num_blocks // num_levels
    ends = [per_level * (level + 1) - 1 for level in range(num_levels - 1)]
    if num_blocks % num_levels or per_level < 2 or sorted(upsamplers.values()) != ends:
        raise ValueError("its output blocks do not form levels of equal length")
    first = [f"input_blocks.{1 + per_level * level}" for level in range(num_levels)]
    channels = tuple(weights[f"{block}.0.out_layers.3.weight"].shape[0] for block in first)
    return _Layout(
        num_res_blocks=per_level - 1,
        channels=channels,
        attends=tuple(f"{block}.1.qkv.weight" in weights for block in first),
        upsamplers={name: number // per_level for name, number in upsamplers.items()},
        updown=not any(f"{name}.conv.weight" in weights for name in upsamplers),
        scale_shift=weights[f"{first[0]}.0.emb_layers.1.weight"].shape[0] == 2 * channels[0],
    )


def _check_flags(weights: Mapping[str, Tensor], flags: ADMFlags) -> None:
    """Compare flags with what a state dict tells.

    Raises:
        InputError: They differ.
        KeyError: A parameter is missing that every ADM network has.
        ValueError: The blocks do not form levels, or diffusers has no such network.
    """
    layout = _read_layout(weights)
    width = weights["time_embed.0.weight"].shape[1]  # `num_channels`
    if width != layout.channels[0]:
        raise ValueError(
            f"its first level has {layout.channels[0]} channels and its time embedding {width}, a"
            " channel_mult that does not begin with 1"
        )
    factor = 2 ** (len(layout.channels) - 1)
    if flags.image_size % factor:
        raise InputError(
            f"adm: image_size is {flags.image_size}, but the network halves images"
            f" {len(layout.channels) - 1} times; give the size in pixels that it was trained on"
        )
    sizes = [flags.image_size >> level for level in range(len(layout.channels))]
    given = flags.get_numbers("attention_resolutions")
    scales = {flags.image_size // int(size) for size in given if size >= 1}
    found: dict[str, tuple[Any, Any]] = {
        "num_channels": (flags.num_channels, width),
        "num_res_blocks": (flags.num_res_blocks, layout.num_res_blocks),
        "channel_mult": (
            [int(part * width) for part in flags.get_numbers("channel_mult")] or None,
            list(layout.channels),
        ),
        "attention_resolutions": (
            [size for size in sizes if flags.image_size // size in scales] if given else None,
            [size for size, attends in zip(sizes, layout.attends, strict=True) if attends],
        ),
        "learn_sigma": (flags.learn_sigma, learns_sigma(weights)),
        "class_cond": (flags.class_cond, False),
        "use_scale_shift_norm": (flags.use_scale_shift_norm, layout.scale_shift),
        "resblock_updown": (flags.resblock_updown, layout.updown),
    }
    for name, (mine, theirs) in found.items():
        if mine is not None and mine != theirs:
            hint = f", which means {mine}" if isinstance(mine, list) else ""
            raise InputError(
                f"adm: {name} is {getattr(flags, name)}{hint}, but the checkpoint has {theirs};"
                " leave the flag out, or give the checkpoint that it belongs to"
            )


def learns_sigma(weights: Mapping[str, Tensor]) -> bool:
    """Return whether a network predicts a variance: it has two outputs per channel."""
    outputs, inputs = weights["out.2.weight"].shape[0], weights["input_blocks.0.0.weight"].shape[1]
    return bool(outputs == 2 * inputs)


def _head_channels(weights: Mapping[str, Tensor], flags: ADMFlags) -> dict[str, int]:
    """Return the channels of a head of each attention layer."""
    return {
        name.removesuffix(".qkv.weight"): flags.get_head_channels(
            value.shape[1], in_decoder=name.startswith("output_blocks.")
        )
        for name, value in weights.items()
        if name.endswith(".qkv.weight")
    }


def unet_config(weights: Mapping[str, Tensor], flags: ADMFlags = _PUBLISHED) -> dict[str, Any]:
    """Infer the architecture from a state dict.

    Args:
        weights: A state dict of guided-diffusion; only names and shapes matter.
        flags: What these do not tell.

    Returns:
        Arguments of `UNet2DModel`. Where the heads of its attention layers differ in size,
        `attention_head_dim` is a common divisor of all.

    Raises:
        KeyError: A parameter is missing that every ADM network has.
        ValueError: The blocks do not form levels.
        InputError: The heads do not divide the channels of an attention layer.
    """
    layout = _read_layout(weights)
    down, up = ("ResnetDown", "ResnetUp") if layout.updown else ("Down", "Up")
    sample = "sample" if layout.updown else ""
    kind = "resnet" if layout.updown else "conv"
    return {
        "sample_size": flags.image_size,
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": weights["out.2.weight"].shape[0],
        "layers_per_block": layout.num_res_blocks,
        "block_out_channels": layout.channels,
        "down_block_types": tuple(
            "AttnDownBlock2D" if attention else f"{down}{sample}Block2D"
            for attention in layout.attends
        ),
        "up_block_types": tuple(
            "AttnUpBlock2D" if attention else f"{up}{sample}Block2D"
            for attention in reversed(layout.attends)
        ),
        "downsample_type": kind,
        "upsample_type": kind,
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
        "attention_head_dim": math.gcd(*_head_channels(weights, flags).values()),
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "add_attention": True,
        "act_fn": "silu",
    }


def _rename(module: str, layout: _Layout) -> str:
    """Return the name in diffusers of a module, such as `input_blocks.4.1`."""
    side, *numbers = module.split(".")
    if module in _ENDS or side == "middle_block":
        return _ENDS[module]
    if module in layout.upsamplers:
        return f"up_blocks.{layout.upsamplers[module]}.upsamplers.0"
    number, entry = map(int, numbers)
    per_level = layout.num_res_blocks + 1
    if side == "input_blocks":
        level, block = divmod(number - 1, per_level)
        if block == layout.num_res_blocks:
            return f"down_blocks.{level}.downsamplers.0"
        return f"down_blocks.{level}.{('resnets', 'attentions')[entry]}.{block}"
    level, block = divmod(number, per_level)
    return f"up_blocks.{level}.{('resnets', 'attentions')[entry]}.{block}"


def convert(weights: Mapping[str, Tensor], flags: ADMFlags = _PUBLISHED) -> dict[str, Tensor]:
    """Convert a state dict of guided-diffusion to one of `UNet2DModel`.

    Parameters are renamed, and the joint projection of an attention layer is split in three.

    Raises:
        KeyError: A name does not belong to an ADM network.
        ValueError: Likewise.
        InputError: The heads do not divide the channels of an attention layer.
    """
    layout, head_channels = _read_layout(weights), _head_channels(weights, flags)
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        path, kind = name.rsplit(".", 1)
        if path in _ENDS:
            converted[f"{_ENDS[path]}.{kind}"] = value
            continue
        block = ".".join(path.split(".")[: 2 if path.startswith("middle_block") else 3])
        inner = path[len(block) + 1 :]
        target = _rename(block, layout)
        if inner == "qkv":
            # Rows are ordered as (heads, 3, channels of a head), or as (3, heads, channels).
            rows = value.flatten(1) if kind == "weight" else value
            if flags.use_new_attention_order:
                parts = rows.chunk(3)
            else:
                heads = rows.unflatten(0, (-1, 3, head_channels[block]))
                parts = tuple(part.flatten(0, 1) for part in heads.unbind(1))
            for letter, part in zip("qkv", parts, strict=True):
                converted[f"{target}.to_{letter}.{kind}"] = part
        elif inner in _ATTENTION:
            flat = value.squeeze(-1) if inner == "proj_out" and kind == "weight" else value
            converted[f"{target}.{_ATTENTION[inner]}.{kind}"] = flat
        else:
            converted[f"{target}.{_INNER[inner]}.{kind}"] = value
    return converted


def load_adm(
    path: str | PathLike[str], flags: ADMFlags = _PUBLISHED, argument: str = "checkpoint"
) -> UNet2DModel:
    """Read an ADM checkpoint as a diffusers model, in its own precision.

    Args:
        path: A state dict of guided-diffusion, as published by OpenAI.
        flags: How the network was trained.
        argument: The user's name for the path, for the error message.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: The file cannot be read, holds code, or is not a state dict of such a network;
            or the flags are not those of this network.
    """
    weights = read_state_dict(path, argument, _HINT)
    floating = all(value.is_floating_point() for value in weights.values())
    if not floating or "input_blocks.0.0.weight" not in weights:
        raise InputError(f"{argument}: {path} is not a state dict of an ADM network; {_HINT}")
    if len({value.dtype for value in weights.values()}) > 1:
        raise InputError(f"{argument}: {path} has tensors of several precisions; {_HINT}")
    if "label_emb.weight" in weights:
        raise InputError(f"{argument}: {path} is conditioned on classes; {_HINT}")
    try:
        _check_flags(weights, flags)
        config = unet_config(weights, flags)
        with torch.device("meta"):
            model: UNet2DModel = UNet2DModel(**config)
        converted = convert(weights, flags)
    except InputError:
        raise
    except Exception as error:  # other names and shapes may fail anywhere
        reason = one_line(error)[:200]
        raise InputError(
            f"{argument}: {path} is not a state dict of an ADM network: {reason}; {_HINT}"
        ) from error
    load_state(model, converted, f"{argument}: {path}", "the ADM U-Net", _HINT, assign=True)
    layout = _read_layout(weights)
    for block, head_channels in _head_channels(weights, flags).items():
        attention = model.get_submodule(_rename(block, layout))
        attention.heads = attention.to_q.out_features // head_channels
        attention.scale = head_channels**-0.5
    if flags.rescale_timesteps:
        model.time_proj.scale = _RESCALED_STEPS / flags.diffusion_steps
    model.eval()
    return model


def adm_scheduler(flags: ADMFlags = _PUBLISHED, learn_sigma: bool = True) -> DDPMScheduler:
    """Return the noise schedule that ADM was trained with.

    Args:
        flags: How the network was trained.
        learn_sigma: Whether the network predicts a variance.
    """
    scale = _RESCALED_STEPS / flags.diffusion_steps
    is_linear = flags.noise_schedule == "linear"
    return DDPMScheduler(
        num_train_timesteps=flags.diffusion_steps,
        beta_schedule="linear" if is_linear else "squaredcos_cap_v2",
        beta_start=scale * 1e-4,
        beta_end=scale * 0.02,
        variance_type="learned_range" if learn_sigma else "fixed_large",
        clip_sample=True,
        prediction_type="sample" if flags.predict_xstart else "epsilon",
    )


def save_pipeline(
    path: str | PathLike[str], folder: str | PathLike[str], flags: ADMFlags = _PUBLISHED
) -> None:
    """Convert an ADM checkpoint to a pipeline folder, written atomically.

    Args:
        path: The checkpoint.
        folder: The new folder.
        flags: How the network was trained.

    Raises:
        InputError: The checkpoint cannot be used, the flags are not those of the network or not
            what a pipeline can state, or the folder is not empty.
        OSError: The folder cannot be written; nothing was read.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"folder: {target} is not empty; give a new one")
    check_target_writable(target)
    model = load_adm(path, flags)
    layers = [layer for layer in model.modules() if hasattr(layer, "to_q")]
    head_channels = {layer.to_q.out_features // layer.heads for layer in layers}
    for name, is_lost in (
        ("num_heads", head_channels != {model.config.attention_head_dim}),
        ("rescale_timesteps", model.time_proj.scale != 1),
    ):
        if is_lost:
            raise InputError(
                f"adm: {name}: a pipeline cannot state it for this network; give DDPMSampler the"
                " checkpoint as `pretrained` and the flags as `adm`"
            )
    learn_sigma = model.config.out_channels == 2 * model.config.in_channels
    write_pipeline(model, adm_scheduler(flags, learn_sigma), target)


def main() -> None:
    """Convert from the command line; an error is one line on standard error and status 2."""
    parser = ArgumentParser(
        prog="python -m lit_hier.diffusion.adm",
        description="Convert an ADM checkpoint to a diffusers pipeline.",
        exit_on_error=False,
    )
    parser.add_argument("checkpoint", type=str, help="such as 256x256_diffusion_uncond.pt")
    parser.add_argument("folder", type=str, help="the new pipeline folder")
    parser.add_class_arguments(ADMFlags)
    try:
        given = vars(parser.parse_args())
        flags = ADMFlags(**{name: given[name] for name in FLAG_NAMES})
        save_pipeline(given["checkpoint"], given["folder"], flags)
    except (InputError, OSError, ArgumentError) as error:
        sys.stderr.write(f"lit-hier: error: {one_line(error)}\n")
        sys.exit(2)
    sys.stdout.write(f"assumed of {given['checkpoint']}: {flags.describe()}\n")


if __name__ == "__main__":
    main()
