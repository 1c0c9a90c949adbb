r"""OpenAI's ADM checkpoints as diffusers models, without loss.

.. code-block:: console

    python -m lit_hier.diffusion.adm 256x256_diffusion_uncond.pt adm-256

makes a pipeline folder that `diffusers.DiffusionPipeline.from_pretrained` reads. The checkpoint is
a plain state dict of the U-Net of guided-diffusion with `resblock_updown`, `use_scale_shift_norm`
and attention heads of 64 channels: two residual blocks per level, three on the way up, attention
at some levels, and every change of resolution is a residual block. Each parameter has its place:

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

from lit_hier.diffusion.pipelines import write_pipeline
from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_tensors

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
    """Read the architecture off a state dict.

    Args:
        weights: Of guided-diffusion; only names and shapes matter.
        sample_size: Pixels per side that the network was trained on.

    Returns:
        Arguments of `UNet2DModel`.

    Raises:
        KeyError: A parameter is missing that every such network has.
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
            "AttnDownBlock2D" if here else "ResnetDownsampleBlock2D" for here in attends
        ),
        "up_block_types": tuple(
            "AttnUpBlock2D" if here else "ResnetUpsampleBlock2D" for here in reversed(attends)
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
    """Count resolutions: each has three input blocks."""
    blocks = {name.split(".")[1] for name in weights if name.startswith("input_blocks.")}
    return len(blocks) // 3


def _place(module: str) -> str:
    """Say where a module of guided-diffusion, such as `input_blocks.4.1`, is in diffusers."""
    side, *numbers = module.split(".")
    if module in _ENDS or side == "middle_block":
        return _ENDS[module]
    number, entry = map(int, numbers)
    if side == "input_blocks":
        level, place = divmod(number - 1, 3)
        if place == 2:
            return f"down_blocks.{level}.downsamplers.0"
        return f"down_blocks.{level}.{('resnets', 'attentions')[entry]}.{place}"
    level, place = divmod(number, 3)
    # After the last block of a level comes the way up, behind its attention if it has one.
    return f"up_blocks.{level}.{('resnets', 'attentions')[entry]}.{place}"


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, and split the attention's joint projection: a state dict of `UNet2DModel`.

    Raises:
        KeyError: A name that has no place.
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
        place = upsamplers.get(block) or _place(block)
        if inner == "qkv":
            # Rows run over (heads, 3, channels of a head).
            heads = value.flatten(1) if kind == "weight" else value
            parts = heads.unflatten(0, (-1, 3, _HEAD_CHANNELS)).unbind(1)
            for letter, part in zip("qkv", parts, strict=True):
                converted[f"{place}.to_{letter}.{kind}"] = part.flatten(0, 1)
        elif inner in _ATTENTION:
            flat = value.squeeze(-1) if inner == "proj_out" and kind == "weight" else value
            converted[f"{place}.{_ATTENTION[inner]}.{kind}"] = flat
        else:
            converted[f"{place}.{_RESNET[inner]}.{kind}"] = value
    return converted


def load_adm(
    path: str | PathLike[str], sample_size: int = 256, argument: str = "checkpoint"
) -> UNet2DModel:
    """Read an ADM checkpoint as a diffusers model, in the precision that it is stored in.

    Args:
        path: A state dict of guided-diffusion, as OpenAI published them.
        sample_size: Pixels per side that the network was trained on.
        argument: The user's name for the path, for the error's message.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: There is no such file, it holds code, or it is no such network.
    """
    weights = read_tensors(path, argument, _HINT)
    tensors = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(x, Tensor) and x.is_floating_point()
        for name, x in weights.items()
    )
    if not tensors or "input_blocks.0.0.weight" not in weights:
        raise InputError(f"{argument}: {path} is no state dict of an ADM network; {_HINT}")
    if len({value.dtype for value in weights.values()}) > 1:
        raise InputError(f"{argument}: {path} is stored in several precisions; {_HINT}")
    if "label_emb.weight" in weights:
        raise InputError(f"{argument}: {path} is conditioned on classes; {_HINT}")
    try:
        config = unet_config(weights, sample_size)
        with torch.device("meta"):
            model = UNet2DModel(**config)
        model.load_state_dict(convert(weights), strict=True, assign=True)
    except Exception as error:  # other names and shapes may make the reading stumble anywhere
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{argument}: {path} is another network than ADM's ({reason}); {_HINT}"
        ) from error
    evaluated: UNet2DModel = model.eval()
    return evaluated


def adm_scheduler() -> DDPMScheduler:
    """Give the noise schedule that ADM was trained with, with its learned variance."""
    return DDPMScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        variance_type="learned_range",
        clip_sample=True,
        prediction_type="epsilon",
    )


def save_pipeline(path: str | PathLike[str], folder: str | PathLike[str]) -> None:
    """Turn an ADM checkpoint into a pipeline folder, whole or not at all.

    Raises:
        InputError: The checkpoint cannot be used, or the folder already holds something.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"folder: {target} already holds something; give a new one")
    write_pipeline(load_adm(path), adm_scheduler(), target)


def main() -> None:
    """Convert from the command line; what cannot be used ends in one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_hier.diffusion.adm", description="Turn an ADM .pt into a pipeline."
    )
    parser.add_argument("checkpoint", help="such as 256x256_diffusion_uncond.pt")
    parser.add_argument("folder", help="where the pipeline goes")
    given = parser.parse_args()
    try:
        save_pipeline(given.checkpoint, given.folder)
    except (InputError, OSError) as error:
        sys.stderr.write(f"lit-hier: error: {' '.join(str(error).split())}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
