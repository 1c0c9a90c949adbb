"""Reading and writing files: atomic writes, safe reads, checkpoints, pixel levels."""
