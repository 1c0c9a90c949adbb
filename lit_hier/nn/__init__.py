"""Networks, and the outputs of their layers."""

from lit_hier.nn.denoisers import LeafTransformer, TreeUNet
from lit_hier.nn.evaluation import evaluate
from lit_hier.nn.fourier_bands import FourierBands
from lit_hier.nn.hierarchical_cnn import HierarchicalCNN
from lit_hier.nn.image_cnn import ImageCNN
from lit_hier.nn.layers import hook_layers, match_layers
from lit_hier.nn.pretrained_classifier import PretrainedClassifier
from lit_hier.nn.probe import Probe
from lit_hier.nn.trained import TrainedCNN, TrainedImageCNN, TrainedNetwork
from lit_hier.nn.trained_classifiers import TrainedClassifiers
from lit_hier.nn.transformer_classifier import TransformerClassifier

__all__ = [
    "FourierBands",
    "HierarchicalCNN",
    "ImageCNN",
    "LeafTransformer",
    "PretrainedClassifier",
    "Probe",
    "TrainedCNN",
    "TrainedClassifiers",
    "TrainedImageCNN",
    "TrainedNetwork",
    "TransformerClassifier",
    "TreeUNet",
    "evaluate",
    "hook_layers",
    "match_layers",
]
