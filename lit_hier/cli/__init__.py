"""The command `lit-hier`: the only place that imports everything."""

from lit_hier.cli.command import main

__all__ = ["main"]
