"""Lightning callbacks that measure a forward-backward experiment as it runs."""

from callbacks.belief_histogram import BeliefHistogram
from callbacks.beliefs import Beliefs
from callbacks.class_kept import ClassKept
from callbacks.effective_noise import EffectiveNoise
from callbacks.iteration_map import IterationMap
from callbacks.progress import TimeProgressBar
from callbacks.reconstruction import Reconstruction
from callbacks.sample_grid import SampleGrid
from callbacks.similarity import ActivationSimilarity
from callbacks.transition import Transition

__all__ = [
    "ActivationSimilarity",
    "BeliefHistogram",
    "Beliefs",
    "ClassKept",
    "EffectiveNoise",
    "IterationMap",
    "Reconstruction",
    "SampleGrid",
    "TimeProgressBar",
    "Transition",
]
