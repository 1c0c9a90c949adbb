"""The forward-backward protocol: corrupt data to a time, denoise them, compare."""

from lit_hier.diffusion.protocol import (
    IMAGE_COUNTS,
    Denoising,
    ForwardBackward,
    Latents,
    Source,
    Training,
    num_levels,
)

__all__ = [
    "IMAGE_COUNTS",
    "Denoising",
    "ForwardBackward",
    "Latents",
    "Source",
    "Training",
    "num_levels",
]
