"""lit-hier: probe what diffusion models and deep networks know about hierarchical data."""

__version__ = "0.1.0"
