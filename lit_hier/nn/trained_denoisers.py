"""Networks that were trained on nested training sets, restored from a checkpoint.

A checkpoint of a `NestedTask` records what kind of networks it holds, how to build them and how
each was trained, as plain values; see `lit_hier.nn.trained` for what may be read from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor, nn

from lit_hier.diffusion.protocol import Training
from lit_hier.errors import InputError
from lit_hier.io.checkpoints import is_state_dict, load_state, read_checkpoint, read_record
from lit_hier.nn.trained import build_network

Use = Literal["best", "last"]
"""Which average of a network's weights: that of the lowest validation loss, or the last one."""

_PREFIXES: Final[Mapping[str, str]] = {"best": "best.", "last": "averaged.module."}
_PRESENT: Final = "networks."  # to resume training from
_BUFFERS: Final = ("best_step", "best_loss", "averaged.n_averaged")
_SIZES: Final = ("num_features", "tuple_size", "num_layers")


@dataclass(frozen=True)
class TrainedDenoiser:
    """A network with its weights.

    Attributes:
        network: The network, in evaluation mode, without gradients.
        training: On how many data it was trained, and for how many steps.
        record: What its checkpoint records: `num_features`, `tuple_size`, `num_layers`, the name
            of its `process`, its `process_key` and `last_time`, and `trained_on`, the largest
            training set of its run.
    """

    network: nn.Module
    training: Training
    record: Mapping[str, Any]


def read_denoisers(
    path: str,
    network: Callable[[int, int, int], nn.Module] | None = None,
    use: Use = "best",
) -> list[TrainedDenoiser]:
    """Read the networks of a checkpoint of a `DenoisingTask`.

    Args:
        path: The checkpoint.
        network: Builds a network of your own from (v, s, L); those of `lit_hier.nn` are built as
            the checkpoint says.
        use: Which weights to read.

    Returns:
        The networks, in ascending order of their training data.

    Raises:
        InputError: See `read_networks`, or the sizes of the data are damaged.
    """
    source = f"weights: {path}"

    def build(record: Mapping[str, Any]) -> nn.Module | None:
        sizes = [record.get(name) for name in _SIZES]
        texts = [record.get(name) for name in ("process", "process_key")]
        if not (
            all(type(size) is int and size >= 1 for size in sizes)
            and all(isinstance(text, str) for text in texts)
            and isinstance(record.get("last_time"), float | int)
        ):
            raise InputError(f"{source} has a damaged record of its data; {_hint('denoisers')}")
        if network is not None:
            return network(*(record[name] for name in _SIZES))
        arguments = record["arguments"]
        if arguments and any(arguments.get(name) != record[name] for name in _SIZES):
            raise InputError(f"{source} has a network of other data; {_hint('denoisers')}")
        return None

    return [
        TrainedDenoiser(found, training, record)
        for found, training, record in read_networks(path, "denoisers", build, use)
    ]


def read_networks(
    path: str,
    kind: str,
    build: Callable[[Mapping[str, Any]], nn.Module | None],
    use: Use = "best",
) -> list[tuple[nn.Module, Training, Mapping[str, Any]]]:
    """Read the networks of a checkpoint of a `NestedTask`.

    Args:
        path: The checkpoint.
        kind: The kind of the networks, such as `denoisers`.
        build: Checks the record, and builds a network; None for one that the checkpoint names.
        use: Which weights to read.

    Returns:
        For each network, in ascending order of its training data: the network, in evaluation mode
        and without gradients, how it was trained, and the record.

    Raises:
        InputError: The file is not a readable checkpoint of this kind, is damaged, does not say
            how to build its networks, has weights that do not fit, or has no best ones as no
            validation took place.
    """
    source, hint = f"weights: {path}", _hint(kind)
    checkpoint = read_checkpoint(path, "weights")
    record, state = read_record(checkpoint, source), checkpoint["state_dict"]
    if record.get("kind") != kind:
        raise InputError(f"{source} does not hold {kind}; {hint}")
    if not is_state_dict(state):
        raise InputError(f"{source} has a damaged state dict; {hint}")
    record = {"network": None, "trained_on": "", **record}
    is_text = isinstance(record["trained_on"], str)
    if not is_text or not isinstance(record.get("arguments"), dict):
        raise InputError(f"{source} has a damaged record of its networks; {hint}")
    trainings = _read_trainings(record, use, source, hint)
    states = _split(state, len(trainings), source, hint)
    result: list[tuple[nn.Module, Training, Mapping[str, Any]]] = []
    for training, weights in zip(trainings, states[_PREFIXES[use]], strict=True):
        network = build(record)
        if network is None:
            network = build_network(record, weights, source, hint)
        load_state(network, weights, source, type(network).__name__, hint)
        result.append((network.eval().requires_grad_(False), training, record))
    return result


def _hint(kind: str) -> str:
    return (
        f"give a checkpoint that `lit-hier fit` wrote of {kind}, and `network` if it is your own"
    )


def _read_trainings(record: Mapping[str, Any], use: Use, source: str, hint: str) -> list[Training]:
    """Check and return how each network was trained."""
    entries, last = record.get("training"), record.get("step")
    damaged = InputError(f"{source} has a damaged record of its training; {hint}")
    if not isinstance(entries, list) or not entries or type(last) is not int or last < 0:
        raise damaged
    trainings = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise damaged
        num, step = entry.get("num_train"), entry.get("best_step")
        if type(num) is not int or type(step) is not int or num < 1 or step < -1:
            raise damaged
        if use == "best" and step < 0:
            raise InputError(
                f"{source} has no best weights, as no validation took place in training; give"
                " use=last, or train with validation"
            )
        trainings.append(Training(num, last))  # networks of other seeds are best at other steps
    if len({training.num_train for training in trainings}) < len(trainings):
        raise damaged
    return trainings


def _split(
    state: Mapping[str, Tensor], num: int, source: str, hint: str
) -> dict[str, list[dict[str, Tensor]]]:
    """Return the state dicts of the networks, by the prefix of their names."""
    states: dict[str, list[dict[str, Tensor]]] = {
        prefix: [{} for _ in range(num)] for prefix in (*_PREFIXES.values(), _PRESENT)
    }
    for key, value in state.items():
        prefix = next((prefix for prefix in states if key.startswith(prefix)), "")
        position, _, name = key.removeprefix(prefix).partition(".")
        if prefix and position.isdecimal() and int(position) < num:
            states[prefix][int(position)][name] = value
        elif key not in _BUFFERS:
            raise InputError(f"{source}: {key!r:.80} is unexpected; {hint}")
    return states
