"""LightningDataModules."""

from lit_hier.data.rhm import RHMDataModule

__all__ = ["RHMDataModule"]
