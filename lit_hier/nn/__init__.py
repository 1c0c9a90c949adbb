"""Networks, and their layers by name."""

from lit_hier.nn.fourier_bands import FourierBands
from lit_hier.nn.hierarchical_cnn import HierarchicalCNN, TrainedCNN
from lit_hier.nn.layers import match_layers, watch_layers

__all__ = ["FourierBands", "HierarchicalCNN", "TrainedCNN", "match_layers", "watch_layers"]
