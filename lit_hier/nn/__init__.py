"""Networks, and their layers by name."""

from lit_hier.nn.hierarchical_cnn import HierarchicalCNN, TrainedCNN
from lit_hier.nn.layers import match_layers, watch_layers

__all__ = ["HierarchicalCNN", "TrainedCNN", "match_layers", "watch_layers"]
