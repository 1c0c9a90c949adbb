"""LightningDataModules for the RHM, for images and for distributions without a hierarchy."""

from lit_hier.data.digits import DigitsDataModule
from lit_hier.data.files import ImageFiles
from lit_hier.data.gaussian import GaussianDataModule
from lit_hier.data.images import ImageDataModule
from lit_hier.data.rhm import RHMDataModule

__all__ = [
    "DigitsDataModule",
    "GaussianDataModule",
    "ImageDataModule",
    "ImageFiles",
    "RHMDataModule",
]
