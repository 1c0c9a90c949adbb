"""The old name of `lit_hier.processes`."""

raise ImportError("lit_hier.noise was renamed; import lit_hier.processes")
