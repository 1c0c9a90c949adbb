"""Lightning callbacks that measure a forward-backward experiment as it runs."""

from lit_hier.callbacks.belief_histogram import BeliefHistogram
from lit_hier.callbacks.beliefs import Beliefs
from lit_hier.callbacks.change_correlation import ChangeCorrelation
from lit_hier.callbacks.changes import Changes, LeafChanges, PixelChanges, TokenChanges
from lit_hier.callbacks.class_kept import ClassKept
from lit_hier.callbacks.denoiser_quality import DenoiserQuality
from lit_hier.callbacks.effective_noise import EffectiveNoise
from lit_hier.callbacks.interpolation import Interpolation
from lit_hier.callbacks.iteration_map import IterationMap
from lit_hier.callbacks.learning_curve import LearningCurve
from lit_hier.callbacks.progress import TimeProgressBar
from lit_hier.callbacks.reconstruction import Reconstruction
from lit_hier.callbacks.sample_grid import SampleGrid
from lit_hier.callbacks.similarity import ActivationSimilarity
from lit_hier.callbacks.synonym_sensitivity import SynonymSensitivity
from lit_hier.callbacks.transition import Transition
from lit_hier.callbacks.transition_time import TransitionTime
from lit_hier.callbacks.validity import Validity

__all__ = [
    "ActivationSimilarity",
    "BeliefHistogram",
    "Beliefs",
    "ChangeCorrelation",
    "Changes",
    "ClassKept",
    "DenoiserQuality",
    "EffectiveNoise",
    "Interpolation",
    "IterationMap",
    "LeafChanges",
    "LearningCurve",
    "PixelChanges",
    "Reconstruction",
    "SampleGrid",
    "SynonymSensitivity",
    "TimeProgressBar",
    "TokenChanges",
    "Transition",
    "TransitionTime",
    "Validity",
]
