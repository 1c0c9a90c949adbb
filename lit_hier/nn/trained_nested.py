"""Networks that were trained on nested training sets, restored from a checkpoint.

A checkpoint of a `NestedTask` records what kind of networks it holds, how to build them and how
each was trained, as plain values; see `lit_hier.nn.trained` for what may be read from it.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from lit_hier.diffusion.protocol import Training
from lit_hier.errors import InputError, one_line
from lit_hier.io.checkpoints import is_state_dict, load_state, read_checkpoint, read_record
from lit_hier.nn.trained import build_network

Use = Literal["best", "last"]
"""Which average of a network's weights: that of the lowest validation loss, or the last one."""

_PREFIXES: Final[Mapping[str, str]] = {"best": "best.", "last": "averaged.module."}
_PRESENT: Final = "networks."  # to resume training from
_BUFFERS: Final = ("best_step", "best_loss", "averaged.n_averaged")


@dataclass(frozen=True)
class NestedNetwork:
    """A network of a nested training set, with its weights.

    Attributes:
        network: The network, in evaluation mode, without gradients.
        training: On how many data it was trained, and for how many steps.
        record: What its checkpoint records: the sizes of the data, and `trained_on`, the largest
            training set of its run; for denoisers also the name of the `process`, `process_key`
            and `last_time`.
    """

    network: nn.Module
    training: Training
    record: Mapping[str, Any]


def read_networks(
    path: str,
    kind: str,
    sizes: Sequence[str],
    network: Callable[..., nn.Module] | None = None,
    use: Use = "best",
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[NestedNetwork]:
    """Read the networks of a checkpoint of a `NestedTask`.

    Args:
        path: The checkpoint.
        kind: The kind of the networks, such as `denoisers`.
        sizes: Names of the sizes of the data in the record, such as `num_features`.
        network: Builds a network of your own from these; those of `lit_hier.nn` are built as the
            checkpoint says.
        use: Which weights to read.
        check: Rejects a record before a network is built.

    Returns:
        The networks, in ascending order of their training data.

    Raises:
        InputError: The file is not a readable checkpoint of this kind, is damaged, does not say
            how to build its networks, has weights that do not fit, or has no best ones as no
            validation took place; or `network` fails.
    """
    source = f"weights: {path}"
    hint = (
        f"give a checkpoint that `lit-hier fit` wrote of {kind}, and `network` if it is your own"
    )
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
    values = [record.get(name) for name in sizes]
    if any(type(value) is not int or value < 1 for value in values):
        raise InputError(f"{source} has a damaged record of its data; {hint}")
    if check is not None:
        check(record)
    arguments = record["arguments"]
    if network is None and any(
        arguments.get(name, value) != value for name, value in zip(sizes, values, strict=True)
    ):
        raise InputError(f"{source} names a network for data of other sizes; {hint}")
    trainings = _read_trainings(record, use, source, hint)
    states = _split(state, len(trainings), source, hint)
    result = []
    for training, weights in zip(trainings, states[_PREFIXES[use]], strict=True):
        if network is None:
            built = build_network(record, weights, source, hint)
        else:
            built = _build_own(network, values, weights, source, hint)
        load_state(built, weights, source, type(built).__name__, hint)
        result.append(NestedNetwork(built.eval().requires_grad_(False), training, record))
    return result


def _build_own(
    network: Callable[..., nn.Module],
    sizes: Sequence[Any],
    state: Mapping[str, Tensor],
    source: str,
    hint: str,
) -> nn.Module:
    """Build a user's network, once the tensors of the checkpoint are known to fit."""
    outline: Any = None
    try:
        with torch.device("meta"):  # a damaged size must not allocate memory
            outline = deepcopy(network(*sizes))
    except Exception:  # it computes as it is built, or fails below as well
        outline = None
    if isinstance(outline, nn.Module):
        load_state(outline, state, source, type(outline).__name__, hint, assign=True)
    try:
        built: Any = deepcopy(network(*sizes))  # several networks may be one object
    except Exception as error:  # a user's code may raise anything
        reason = (one_line(error) or type(error).__name__)[:200]
        raise InputError(
            f"network: it cannot be built from {', '.join(map(str, sizes))}: {reason}; give a"
            " function of the sizes of the data that returns a module"
        ) from error
    if not isinstance(built, nn.Module):
        raise InputError(f"network: it builds a {type(built).__name__}; give one that is a module")
    return built


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
    positions = {str(position): position for position in range(num)}
    states: dict[str, list[dict[str, Tensor]]] = {
        prefix: [{} for _ in range(num)] for prefix in (*_PREFIXES.values(), _PRESENT)
    }
    for key, value in state.items():
        prefix = next((prefix for prefix in states if key.startswith(prefix)), "")
        position, _, name = key.removeprefix(prefix).partition(".")
        if prefix and position in positions:
            states[prefix][positions[position]][name] = value
        elif key not in _BUFFERS:
            raise InputError(f"{source}: {key!r:.80} is unexpected; {hint}")
    return states
