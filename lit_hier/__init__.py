"""lit-hier: probe what diffusion models and deep networks learn about hierarchical data.

The names below are imported when they are first used; `lit_hier.rhm`, `lit_hier.inference` and the
other subpackages have the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_hier.callbacks import ActivationSimilarity, Reconstruction
    from lit_hier.data import ImageDataModule, RHMDataModule
    from lit_hier.errors import InputError
    from lit_hier.experiment import forward_backward
    from lit_hier.inference import BeliefPropagation
    from lit_hier.modules import BPDenoiser, DDPMSampler, LearnedDenoiser, NetworkDenoiser
    from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise
    from lit_hier.results import read_run
    from lit_hier.rhm import GrammarEnsemble, RandomHierarchyModel

__version__ = "0.1.0"
__all__ = [
    "ActivationSimilarity",
    "BPDenoiser",
    "BeliefPropagation",
    "DDPMSampler",
    "EpsilonNoise",
    "GaussianNoise",
    "GrammarEnsemble",
    "ImageDataModule",
    "InputError",
    "LearnedDenoiser",
    "MaskingNoise",
    "NetworkDenoiser",
    "RHMDataModule",
    "RandomHierarchyModel",
    "Reconstruction",
    "forward_backward",
    "read_run",
]
_MODULES = {
    "ActivationSimilarity": "callbacks",
    "BPDenoiser": "modules",
    "BeliefPropagation": "inference",
    "DDPMSampler": "modules",
    "EpsilonNoise": "processes",
    "GaussianNoise": "processes",
    "GrammarEnsemble": "rhm",
    "ImageDataModule": "data",
    "InputError": "errors",
    "LearnedDenoiser": "modules",
    "MaskingNoise": "processes",
    "NetworkDenoiser": "modules",
    "RHMDataModule": "data",
    "RandomHierarchyModel": "rhm",
    "Reconstruction": "callbacks",
    "forward_backward": "experiment",
    "read_run": "results",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next use is an ordinary attribute access
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
