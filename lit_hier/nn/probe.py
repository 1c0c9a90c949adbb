"""Outputs of chosen layers of a network, with channels on axis 1."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.nn.fingerprint import fingerprint
from lit_hier.nn.layers import hook_layers, match_layers


class Probe:
    """Runs a network without gradients and passes on the outputs of chosen layers.

    Outputs are passed on with channels on axis 1. An output with fewer axes than the input, such
    as the tokens (B, N, C) of a transformer, has its channels last. For square images, the two
    axes of equal length identify the layout, (B, C, H, H) or (B, H, H, C); otherwise channels are
    on axis 1, unless the network declares `channels_last_layers`.

    A network may have the attributes `hooked`, the submodule that layer names refer to;
    `paper_layers`, patterns of the layers that the paper analyses; and `channels_last_layers`.

    Args:
        network: Any module that takes one tensor.
        patterns: Patterns of layer names, see `match_layers`; the network's `paper_layers` by
            default.

    Attributes:
        network: As given, in evaluation mode.
        layers: Names of the chosen layers, in the network's order.

    Raises:
        InputError: A pattern matches no layer, or there is neither a pattern nor `paper_layers`.
    """

    def __init__(self, network: nn.Module, patterns: Sequence[str] | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self._hooked: nn.Module = getattr(network, "hooked", network)
        self._channels_last = bool(getattr(network, "channels_last_layers", False))
        if patterns is None:
            patterns = getattr(network, "paper_layers", ())
            if not patterns:
                names = (name for name, _ in self._hooked.named_modules() if name)
                raise InputError(
                    f"layers: {type(self._hooked).__name__} has no default layers; give patterns"
                    f" of layer names, such as {next(names, None)!r}"
                )
        self.layers = match_layers(self._hooked, patterns)

    def __call__(self, x: Tensor, callback: Callable[[str, Tensor], None]) -> Tensor:
        """Run the network, calling `callback(name, output)` for each chosen layer.

        Args:
            x: The network's input, shape (B, C, ...); converted to float32.
            callback: Receives outputs (B, C, ...).

        Returns:
            The network's output: logits (B, classes), if it is a classifier.

        Raises:
            InputError: The network rejects x, or a layer's output cannot be used.
        """

        def with_channels_first(name: str, output: Tensor) -> None:
            last = _channels_last(output, x, self._channels_last)
            callback(name, output.movedim(-1, 1) if last else output)

        with hook_layers(self._hooked, self.layers, with_channels_first):
            return evaluate(self.network, x)

    @property
    def identity(self) -> str:
        """All that determines the outputs, as text: network, weights, transform, layers."""
        transform = getattr(self.network, "transform", None)
        return f"{fingerprint(self.network)} {transform!r} {self._channels_last} {self.layers}"


def evaluate(network: nn.Module, x: Tensor) -> Tensor:
    """Run a network without gradients and without autocast.

    Args:
        network: Takes one tensor and returns one.
        x: Shape (B, C, ...); converted to float32.

    Returns:
        The network's output.

    Raises:
        InputError: The network rejects the shape of x, or does not return a tensor.
    """
    try:
        with torch.inference_mode(), torch.autocast(x.device.type, enabled=False):
            output = network(x.float())
    except RuntimeError as error:
        if "shape" not in str(error) and "size" not in str(error).lower():
            raise
        raise InputError(
            f"network: {type(network).__name__} does not take x of shape {tuple(x.shape)}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise InputError(
            f"network: {type(network).__name__} returns a {kind}, not a tensor; give a module that"
            " returns its logits"
        )
    return output


def _channels_last(output: Tensor, x: Tensor, default: bool) -> bool:
    """Return whether an output has its channels on the last axis."""
    if output.ndim != x.ndim:
        return output.ndim < x.ndim
    if x.ndim == 4 and x.shape[2] == x.shape[3]:
        before, after = output.shape[1] == output.shape[2], output.shape[2] == output.shape[3]
        if before != after:
            return before
    return default
