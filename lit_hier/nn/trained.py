"""Trained networks, restored from the checkpoints of `ClassificationTask`.

A checkpoint records its format, a network of `NETWORKS` by name with its arguments, and the
training set, all as plain values: `lit_hier.io.checkpoints.write_record`. No name in a checkpoint
is ever imported.
"""

import re
from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import is_state_dict, load_state, read_checkpoint, read_record
from lit_hier.nn.denoisers import LeafTransformer, TreeUNet
from lit_hier.nn.hierarchical_cnn import HierarchicalCNN
from lit_hier.nn.image_cnn import ImageCNN
from lit_hier.nn.transformer_classifier import TransformerClassifier

_CLASSIFIERS: Final = (HierarchicalCNN, ImageCNN)
_KINDS: Final = (*_CLASSIFIERS, TreeUNet, LeafTransformer, TransformerClassifier)
NETWORKS: Final[Mapping[str, type[nn.Module]]] = {kind.__name__: kind for kind in _KINDS}
"""Networks that a checkpoint may name."""

_PREFIX: Final = "network."  # of a task's state dict


class TrainedNetwork(nn.Module):
    """A network with the weights of a checkpoint, in evaluation mode.

    Layer names are the network's own, without a prefix.

    Args:
        weights: Checkpoint that `lit-hier fit` wrote for a `ClassificationTask`, an
            `RHMClassifier` or an `ImageClassifier`.
        network: The network, for one of your own; those of `lit_hier.nn` are built as the
            checkpoint says.

    Attributes:
        network: The network itself.
        trained_on: The training set, as the checkpoint names it, or empty; see
            `RHMDataModule.training_set`.
        training_errors: How many training data the network misclassifies, and how many there are;
            None if they were not counted, see `Interpolation`.
        paper_layers: Patterns of the layers that the paper analyses; empty for most networks.
        channels_last_layers: Whether layers return (B, ..., C), None if unknown.

    Raises:
        InputError: The file is not a readable checkpoint, its format is newer than this version
            reads, it does not say how to build its network, or its weights do not fit.
    """

    _hint: ClassVar = (
        "give a checkpoint of a ClassificationTask, and its `network` if that is your own"
    )

    def __init__(self, weights: str, network: nn.Module | None = None) -> None:
        super().__init__()
        source = f"weights: {weights}"
        checkpoint = read_checkpoint(weights, "weights")
        state = checkpoint["state_dict"]
        if not is_state_dict(state):
            raise InputError(f"{source} has a damaged state dict; {self._hint}")
        if others := [key for key in state if not key.startswith(_PREFIX)]:
            raise InputError(f"{source}: {others[0]!r:.80} is unexpected; {self._hint}")
        state = {key.removeprefix(_PREFIX): value for key, value in state.items()}
        description = _describe_checkpoint(checkpoint, source)
        if network is None:
            network = build_network(description, state, source, self._hint)
        load_state(network, state, source, type(network).__name__, self._hint)
        self.network = network
        self.trained_on = str(description["trained_on"])
        self.training_errors: tuple[int, int] | None = description["training_errors"]
        self.paper_layers = getattr(network, "paper_layers", ())
        self.channels_last_layers = getattr(network, "channels_last_layers", None)
        self.eval()

    @property
    def hooked(self) -> nn.Module:
        """The module that layer patterns refer to."""
        hooked: nn.Module = getattr(self.network, "hooked", self.network)
        return hooked

    @property
    def transform(self) -> Any:
        """The network's own preprocessing, or None."""
        return getattr(self.network, "transform", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output, for a classifier logits (B, classes), for x (B, ...)."""
        output: Tensor = self.network(x)
        return output


class TrainedCNN(TrainedNetwork):
    """A trained `HierarchicalCNN`: see `TrainedNetwork`.

    Args:
        weights: Checkpoint that `lit-hier fit` wrote for an `RHMClassifier`.
    """

    _hint = "give a checkpoint of an RHMClassifier"

    def __init__(self, weights: str) -> None:
        super().__init__(weights)
        _check_kind(self, HierarchicalCNN, weights)


class TrainedImageCNN(TrainedNetwork):
    """A trained `ImageCNN`: see `TrainedNetwork`.

    Args:
        weights: Checkpoint that `lit-hier fit` wrote for an `ImageClassifier`.
    """

    _hint = "give a checkpoint of an ImageClassifier"

    def __init__(self, weights: str) -> None:
        super().__init__(weights)
        _check_kind(self, ImageCNN, weights)


def _check_kind(trained: TrainedNetwork, kind: type[nn.Module], weights: str) -> None:
    if not isinstance(trained.network, kind):
        found = type(trained.network).__name__
        raise InputError(
            f"weights: {weights}: its network is {found}, not {kind.__name__}; {trained._hint}"
        )


def build_network(
    description: Mapping[str, Any], state: Mapping[str, Tensor], source: str, hint: str
) -> nn.Module:
    """Build the network that a checkpoint names, once its tensors are known to fit.

    Args:
        description: `network`, a name in `NETWORKS`, and `arguments`.
        state: Its state dict, which is not loaded.
        source: The checkpoint's name in error messages.
        hint: What to do, for error messages.

    Raises:
        InputError: The name or the arguments are damaged, or the tensors do not fit.
    """
    name, arguments = description["network"], description["arguments"]
    if not isinstance(name, str) or name not in NETWORKS:
        raise InputError(f"{source} does not name a network that lit-hier can build; {hint}")
    kind = NETWORKS[name]
    try:
        if any(len(x) > len(state) for x in arguments.values() if isinstance(x, list | tuple)):
            raise ValueError  # more layers than tensors
        with torch.device("meta"):  # a damaged number must not allocate memory
            outline = kind(**arguments)
    except Exception as error:  # damaged arguments may fail anywhere in torch
        raise InputError(f"{source} has invalid arguments for {name}; {hint}") from error
    load_state(outline, state, source, name, hint, assign=True)
    return kind(**arguments)


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return a network's name in `NETWORKS` and its arguments; None and {} for any other one."""
    name = type(network).__name__
    if isinstance(network, _KINDS) and NETWORKS.get(name) is type(network):
        return {"network": name, "arguments": network.arguments}
    return {"network": None, "arguments": {}}


def training_set_of(checkpoint: Mapping[str, Any], source: str) -> str:
    """Return the training set that a checkpoint names; empty if it names none.

    Raises:
        InputError: See `lit_hier.io.checkpoints.read_record`.
    """
    return str(_describe_checkpoint(checkpoint, source)["trained_on"])


def _describe_checkpoint(checkpoint: Mapping[str, Any], source: str) -> dict[str, Any]:
    unknown: dict[str, Any] = {
        "network": None,
        "arguments": {},
        "trained_on": "",
        "training_errors": None,
    }
    if record := read_record(checkpoint, source):
        return _check_counts(_check_texts(unknown | record, source), source)
    # Format 1 has the hyperparameters of an RHMClassifier or an ImageClassifier instead.
    given = checkpoint.get("hyper_parameters")
    if not isinstance(given, dict):
        return unknown
    found = _check_texts(unknown | {"trained_on": given.get("trained_on", "")}, source)
    for kind in _CLASSIFIERS:
        names = list(signature(kind).parameters)
        if given.keys() >= set(names):
            return found | {
                "network": kind.__name__,
                "arguments": {key: given[key] for key in names},
            }
    return found


def _check_texts(description: dict[str, Any], source: str) -> dict[str, Any]:
    """Check the part of a description that messages repeat."""
    if not isinstance(description["trained_on"], str):
        raise InputError(f"{source} has a damaged name of its training set; give another one")
    return description


def _check_counts(description: dict[str, Any], source: str) -> dict[str, Any]:
    """Check the count of errors on the training set, a pair of integers."""
    counts = description["training_errors"]
    if counts is None:
        return description
    pair = isinstance(counts, list) and len(counts) == 2
    if not pair or not all(type(x) is int for x in counts) or not 0 <= counts[0] <= counts[1]:
        raise InputError(f"{source} has a damaged count of training errors; give another one")
    return description | {"training_errors": tuple(counts)}


def check_training_set(trained_on: str, training_set: str, argument: str) -> None:
    """Reject weights that were trained on another training set than that of the data module.

    Args:
        trained_on: The training set that the weights name; empty if they name none.
        training_set: That of the data module (`RHMDataModule.training_set`); empty likewise.
        argument: The user's name for the weights, for the error message.

    Raises:
        InputError: Both are named and differ.
    """
    if trained_on and training_set and trained_on != training_set:
        raise InputError(
            f"{argument}: the network was trained on {trained_on:.120}, but the data are"
            f" {training_set:.120}: other data, or held-out data that it was trained on; give the"
            " data module the arguments of the training run"
        )


def split_training_set(trained_on: str) -> tuple[str, int, int]:
    """Split the name of a training set of a grammar: see `RHMDataModule.training_set`.

    Args:
        trained_on: The name.

    Returns:
        The grammar's description, the number of training data and their seed; for a name of
        another form, that name, 0 and 0.
    """
    found = re.fullmatch(r"(.*), num_train=([0-9]{1,99}), seed=([0-9]{1,99})", trained_on)
    if not found:
        return trained_on, 0, 0
    return found[1], int(found[2]), int(found[3])


def check_held_out(trained_on: str, training_set: str, argument: str) -> None:
    """Reject weights that may have been trained on the data that a data module holds out.

    Training sets of one grammar and seed are nested, so that the data module may have a larger
    one.

    Args:
        trained_on: The training set that the weights name; empty if they name none.
        training_set: That of the data module (`RHMDataModule.training_set`); empty likewise.
        argument: The user's name for the weights, for the error message.

    Raises:
        InputError: Both are named, and the data, their seed or their order differ, or the data
            module has fewer training data.
    """
    name, num, seed = split_training_set(trained_on)
    if not num or not training_set:
        return check_training_set(trained_on, training_set, argument)
    found, num_train, found_seed = split_training_set(training_set)
    if (name, seed) != (found, found_seed) or num > num_train:
        raise InputError(
            f"{argument}: the network was trained on {trained_on:.120}, but the data are"
            f" {training_set:.120}: other data, or held-out data that it was trained on; give the"
            f" data module the grammar and seed={seed} of the training, and num_train of at least"
            f" {num}"
        )
