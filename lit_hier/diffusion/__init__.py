"""The forward-backward protocol: corrupt data to a time, turn the process round, look again."""

from lit_hier.diffusion.protocol import IMAGE_COUNTS, ForwardBackward, Source

__all__ = ["IMAGE_COUNTS", "ForwardBackward", "Source"]
