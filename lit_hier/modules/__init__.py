"""LightningModules: samplers, and the tasks that train networks."""

from typing import Any

from lit_hier.diffusion.adm_flags import ADMFlags
from lit_hier.modules.bp_denoiser import BPDenoiser
from lit_hier.modules.classification import ClassificationTask
from lit_hier.modules.classifiers_task import ClassifiersTask
from lit_hier.modules.ddpm_sampler import DDPMSampler
from lit_hier.modules.ddpm_task import DDPMTask
from lit_hier.modules.denoising_task import DenoisingTask
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.modules.gaussian_denoiser import GaussianDenoiser
from lit_hier.modules.image_classifier import ImageClassifier
from lit_hier.modules.learned_denoiser import LearnedDenoiser
from lit_hier.modules.nested_task import NestedTask
from lit_hier.modules.network_denoiser import NetworkDenoiser
from lit_hier.modules.rhm_classifier import RHMClassifier
from lit_hier.modules.stored_samples import StoredSamples
from lit_hier.modules.synonym_exchange import SynonymExchange

__all__ = [
    "ADMFlags",
    "BPDenoiser",
    "ClassificationTask",
    "ClassifiersTask",
    "DDPMSampler",
    "DDPMTask",
    "DenoisingTask",
    "ForwardBackwardModule",
    "GaussianDenoiser",
    "ImageClassifier",
    "LearnedDenoiser",
    "NestedTask",
    "NetworkDenoiser",
    "RHMClassifier",
    "StoredSamples",
    "SynonymExchange",
]

_RENAMED = {"DDPMTrainer": "DDPMTask"}


def __getattr__(name: str) -> Any:
    message = f"module {__name__!r} has no attribute {name!r}"
    if name in _RENAMED:
        # `from ... import` would replace an AttributeError by one without the new name.
        raise ImportError(f"{message}: it was renamed; write {_RENAMED[name]}")
    raise AttributeError(message)
