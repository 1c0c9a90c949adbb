"""Classifiers of nested training sets, restored from the checkpoint of a `ClassifiersTask`."""

from collections.abc import Callable
from typing import Final

from torch import nn

from lit_hier.nn.trained_nested import Use, read_networks

_SIZES: Final = ("num_features", "num_classes", "tuple_size", "num_layers")


class TrainedClassifiers(nn.Module):
    """The classifiers of a checkpoint, one for each number of training data.

    Args:
        weights: Checkpoint that `lit-hier fit` wrote for a `ClassifiersTask`.
        use: Which weights: `best`, of the lowest validation loss, or `last`.
        network: Builds a network of your own from (v, n, s, L); those of `lit_hier.nn` are built
            as the checkpoint says.

    Attributes:
        networks: The networks, in evaluation mode.
        trainings: How each was trained, in ascending order of the training data.
        trained_on: The largest training set, as the checkpoint names it, or empty; see
            `RHMDataModule.training_set`.

    Raises:
        InputError: See `lit_hier.nn.trained_nested.read_networks`.
    """

    def __init__(
        self,
        weights: str,
        use: Use = "best",
        network: Callable[[int, int, int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        found = read_networks(weights, "classifiers", _SIZES, network, use)
        self.networks = nn.ModuleList(each.network for each in found)
        self.trainings = tuple(each.training for each in found)
        self.trained_on = str(found[0].record["trained_on"])
        self.eval()
