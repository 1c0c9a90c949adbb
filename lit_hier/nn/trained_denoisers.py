"""Denoisers of nested training sets, restored from the checkpoint of a `DenoisingTask`."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from lit_hier.errors import InputError
from lit_hier.nn.trained_nested import NestedNetwork, Use, read_networks

_SIZES: Final = ("num_features", "tuple_size", "num_layers")


def read_denoisers(
    path: str,
    network: Callable[[int, int, int], nn.Module] | None = None,
    use: Use = "best",
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[NestedNetwork]:
    """Read the networks of a checkpoint of a `DenoisingTask`.

    Args:
        path: The checkpoint.
        network: Builds a network of your own from (v, s, L); those of `lit_hier.nn` are built as
            the checkpoint says.
        use: Which weights to read.
        check: Rejects a record before a network is built.

    Returns:
        The networks, in ascending order of their training data.

    Raises:
        InputError: See `read_networks`, or the record of the process is damaged.
    """

    def check_all(record: Mapping[str, Any]) -> None:
        texts = [record.get(name) for name in ("process", "process_key")]
        last_time: Any = record.get("last_time")
        is_time = type(last_time) in (float, int) and 0 < last_time <= sys.float_info.max
        if not (is_time and all(isinstance(text, str) for text in texts)):
            raise InputError(
                f"weights: {path} has a damaged record of its process; give a checkpoint that"
                " `lit-hier fit` wrote of denoisers"
            )
        if check is not None:
            check(record)

    return read_networks(path, "denoisers", _SIZES, network, use, check_all)
