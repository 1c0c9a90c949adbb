"""The forward-backward protocol: corrupt data to a time, turn the process round, look again."""

from lit_hier.diffusion.protocol import REMEDIES, ForwardBackward, Source

__all__ = ["REMEDIES", "ForwardBackward", "Source"]
