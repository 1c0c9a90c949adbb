"""The forward-backward protocol: corrupt data to a time, turn the process round, look again."""

from lit_hier.diffusion.protocol import ForwardBackward

__all__ = ["ForwardBackward"]
