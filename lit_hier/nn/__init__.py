"""Networks, and their layers by name."""

from lit_hier.nn.fourier_bands import FourierBands
from lit_hier.nn.hierarchical_cnn import HierarchicalCNN, TrainedCNN
from lit_hier.nn.image_cnn import ImageCNN, TrainedImageCNN
from lit_hier.nn.layers import hook_layers, match_layers
from lit_hier.nn.pretrained_classifier import PretrainedClassifier
from lit_hier.nn.probe import Probe, evaluate

__all__ = [
    "FourierBands",
    "HierarchicalCNN",
    "ImageCNN",
    "PretrainedClassifier",
    "Probe",
    "TrainedCNN",
    "TrainedImageCNN",
    "evaluate",
    "hook_layers",
    "match_layers",
]
