"""Lightning callbacks that measure a forward-backward experiment as it runs."""

from callbacks.progress import TimeProgressBar
from callbacks.reconstruction import Reconstruction
from callbacks.similarity import ActivationSimilarity

__all__ = ["ActivationSimilarity", "Reconstruction", "TimeProgressBar"]
