r"""Lossless conversion of OpenAI's ADM checkpoints to diffusers models.

.. code-block:: console

    python -m lit_hier.diffusion.adm 256x256_diffusion_uncond.pt adm-256

writes a pipeline folder that `diffusers.DiffusionPipeline.from_pretrained` reads. The checkpoint
is a state dict of the U-Net of guided-diffusion with `resblock_updown`, `use_scale_shift_norm` and
attention heads of 64 channels. It has two residual blocks per level in the encoder and three in
the decoder, attention at some levels, and a residual block for every change of resolution. The
parameters correspond as follows:

============================================ ==================================================
guided-diffusion                             diffusers `UNet2DModel`
============================================ ==================================================
`time_embed.0`, `.2`                         `time_embedding.linear_1`, `linear_2`
`input_blocks.0.0`, `out.0`, `out.2`         `conv_in`, `conv_norm_out`, `conv_out`
`input_blocks.{1 + 3i + j}.0` (`.1`)         `down_blocks.i.resnets.j` (`attentions.j`)
`input_blocks.{3 + 3i}.0`                    `down_blocks.i.downsamplers.0`
`middle_block.0`, `.1`, `.2`                 `mid_block.resnets.0`, `attentions.0`, `resnets.1`
`output_blocks.{3u + j}.0` (`.1`)            `up_blocks.u.resnets.j` (`attentions.j`)
`output_blocks.{3u + 2}`, last entry         `up_blocks.u.upsamplers.0`
============================================ ==================================================

Source: Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis" (2021).
"""

import argparse
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from lit_hier.diffusion.pipelines import check_target_writable, write_pipeline
from lit_hier.errors import InputError, one_line
from lit_hier.io.checkpoints import load_state, read_state_dict

_HEAD_CHANNELS: Final = 64
_HINT: Final = "give an unconditional ADM checkpoint, such as 256x256_diffusion_uncond.pt"
_RESNET: Final = {
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


def unet_config(weights: Mapping[str, Tensor], sample_size: int = 256) -> dict[str, Any]:
    """Infer the architecture from a state dict.

    Args:
        weights: A state dict of guided-diffusion; only names and shapes matter.
        sample_size: Pixels per side that the network was trained on.

    Returns:
        Arguments of `UNet2DModel`.

    Raises:
        KeyError: A parameter is missing that every ADM network has.
    """
    num_levels = _num_levels(weights)
    first = [f"input_blocks.{1 + 3 * level}" for level in range(num_levels)]
    channels = [weights[f"{block}.0.out_layers.3.weight"].shape[0] for block in first]
    attends = [f"{block}.1.qkv.weight" in weights for block in first]
    return {
        "sample_size": sample_size,
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": weights["out.2.weight"].shape[0],
        "layers_per_block": 2,
        "block_out_channels": tuple(channels),
        "down_block_types": tuple(
            "AttnDownBlock2D" if attention else "ResnetDownsampleBlock2D" for attention in attends
        ),
        "up_block_types": tuple(
            "AttnUpBlock2D" if attention else "ResnetUpsampleBlock2D"
            for attention in reversed(attends)
        ),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": _HEAD_CHANNELS,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "add_attention": True,
        "act_fn": "silu",
    }


def _num_levels(weights: Mapping[str, Tensor]) -> int:
    """Return the number of resolutions: each has three input blocks."""
    blocks = {name.split(".")[1] for name in weights if name.startswith("input_blocks.")}
    return len(blocks) // 3


def _rename(module: str) -> str:
    """Return the name in diffusers of a module, such as `input_blocks.4.1`."""
    side, *numbers = module.split(".")
    if module in _ENDS or side == "middle_block":
        return _ENDS[module]
    number, entry = map(int, numbers)
    if side == "input_blocks":
        level, block = divmod(number - 1, 3)
        if block == 2:
            return f"down_blocks.{level}.downsamplers.0"
        return f"down_blocks.{level}.{('resnets', 'attentions')[entry]}.{block}"
    level, block = divmod(number, 3)
    # The upsampler, the last entry of a level's last block, is handled by `convert`.
    return f"up_blocks.{level}.{('resnets', 'attentions')[entry]}.{block}"


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of guided-diffusion to one of `UNet2DModel`.

    Parameters are renamed, and the joint projection of an attention layer is split in three.

    Raises:
        KeyError: A name does not belong to an ADM network.
        ValueError: Likewise.
    """
    upsamplers = {}
    for level in range(_num_levels(weights) - 1):
        block = f"output_blocks.{3 * level + 2}"
        last = 2 if f"{block}.1.qkv.weight" in weights else 1
        upsamplers[f"{block}.{last}"] = f"up_blocks.{level}.upsamplers.0"
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        path, kind = name.rsplit(".", 1)
        if path in _ENDS:
            converted[f"{_ENDS[path]}.{kind}"] = value
            continue
        block = ".".join(path.split(".")[: 2 if path.startswith("middle_block") else 3])
        inner = path[len(block) + 1 :]
        target = upsamplers.get(block) or _rename(block)
        if inner == "qkv":
            # Rows are ordered as (heads, 3, channels of a head).
            heads = value.flatten(1) if kind == "weight" else value
            parts = heads.unflatten(0, (-1, 3, _HEAD_CHANNELS)).unbind(1)
            for letter, part in zip("qkv", parts, strict=True):
                converted[f"{target}.to_{letter}.{kind}"] = part.flatten(0, 1)
        elif inner in _ATTENTION:
            flat = value.squeeze(-1) if inner == "proj_out" and kind == "weight" else value
            converted[f"{target}.{_ATTENTION[inner]}.{kind}"] = flat
        else:
            converted[f"{target}.{_RESNET[inner]}.{kind}"] = value
    return converted


def load_adm(
    path: str | PathLike[str], sample_size: int = 256, argument: str = "checkpoint"
) -> UNet2DModel:
    """Read an ADM checkpoint as a diffusers model, in its own precision.

    Args:
        path: A state dict of guided-diffusion, as published by OpenAI.
        sample_size: Pixels per side that the network was trained on.
        argument: The user's name for the path, for the error message.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: The file cannot be read, holds code, or is not a state dict of such a network.
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
        config = unet_config(weights, sample_size)
        with torch.device("meta"):
            model: UNet2DModel = UNet2DModel(**config)
        converted = convert(weights)
    except Exception as error:  # other names and shapes may fail anywhere
        reason = one_line(error)[:200]
        raise InputError(
            f"{argument}: {path} is not a state dict of an ADM network: {reason}; {_HINT}"
        ) from error
    load_state(model, converted, f"{argument}: {path}", "the ADM U-Net", _HINT, assign=True)
    model.eval()
    return model


def adm_scheduler() -> DDPMScheduler:
    """Return the noise schedule that ADM was trained with, with its learned variance."""
    return DDPMScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        variance_type="learned_range",
        clip_sample=True,
        prediction_type="epsilon",
    )


def save_pipeline(path: str | PathLike[str], folder: str | PathLike[str]) -> None:
    """Convert an ADM checkpoint to a pipeline folder, written atomically.

    Raises:
        InputError: The checkpoint cannot be used, or the folder is not empty.
        OSError: The folder cannot be written; nothing was read.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"folder: {target} is not empty; give a new one")
    check_target_writable(target)
    write_pipeline(load_adm(path), adm_scheduler(), target)


def main() -> None:
    """Convert from the command line; an error is one line on standard error and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_hier.diffusion.adm",
        description="Convert an ADM checkpoint to a diffusers pipeline.",
    )
    parser.add_argument("checkpoint", help="such as 256x256_diffusion_uncond.pt")
    parser.add_argument("folder", help="the new pipeline folder")
    arguments = parser.parse_args()
    try:
        save_pipeline(arguments.checkpoint, arguments.folder)
    except (InputError, OSError) as error:
        sys.stderr.write(f"lit-hier: error: {one_line(error)}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
