"""The forward-backward protocol: corrupt data to a time, denoise them, compare."""

from lit_hier.diffusion.protocol import IMAGE_COUNTS, ForwardBackward, Latents, Source, num_levels

__all__ = ["IMAGE_COUNTS", "ForwardBackward", "Latents", "Source", "num_levels"]
