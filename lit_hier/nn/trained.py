"""What networks of ours learnt, from the checkpoints of their training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_checkpoint


class Trained(NamedTuple):
    """A network as a checkpoint describes it.

    Attributes:
        arguments: The network's own, by name.
        state: Its state dict.
        trained_on: What it was trained on, where the checkpoint says; else empty.
    """

    arguments: dict[str, Any]
    state: dict[str, Tensor]
    trained_on: str


@contextmanager
def read_trained(path: str, names: Sequence[str], module: str) -> Iterator[Trained]:
    """Read the `network` of a module's checkpoint, and say so if it turns out to be no such.

    Only numbers are read: a checkpoint that holds code is refused, not run.

    Args:
        path: Checkpoint that `lit-hier fit` wrote.
        names: Of the network's arguments.
        module: The module that trains it, for the error's message.

    Raises:
        InputError: There is no such file, or what it holds does not fit, also inside the block.
    """
    checkpoint = read_checkpoint(path, "weights")
    try:
        hyper_parameters = checkpoint["hyper_parameters"]
        yield Trained(
            arguments={name: hyper_parameters[name] for name in names},
            state={
                key.removeprefix("network."): value
                for key, value in checkpoint["state_dict"].items()
                if key.startswith("network.")
            },
            trained_on=str(hyper_parameters.get("trained_on", "")),
        )
    except InputError:
        raise
    except Exception as error:  # numbers that make no network may make torch stumble anywhere
        raise InputError(
            f"weights: {path} is of another model; give a checkpoint of {module}"
        ) from error
