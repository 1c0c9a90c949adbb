"""Reading and writing files: atomic writes, safe reads, formats, checkpoints, pixel levels."""
