"""A network as the experiment looks into it: chosen layers, channels first."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.io.checkpoints import fingerprint
from lit_hier.nn.layers import hook_layers, match_layers


class Probe:
    """Runs a network, without gradients, and shows what chosen layers put out.

    Outputs are shown with channels on axis 1. Those that have fewer axes than the input, such as
    the tokens (B, N, C) that a transformer makes of images, have them last. Of square images, the
    two equal sides tell which axis is left for channels, (B, C, H, H) or (B, H, H, C); where they
    do not tell, channels are on axis 1, unless the network says that its layers have them last.

    A network may have the attributes `hooked`, the module in it whose layers are meant;
    `paper_layers`, the patterns of those that the paper looks into; and `channels_last_layers`.

    Args:
        network: Any module that takes one tensor.
        patterns: Of layer names, see `match_layers`; the network's `paper_layers`, if left out.

    Attributes:
        network: As given, in evaluation mode.
        layers: Names, in the network's order.

    Raises:
        InputError: A pattern matches no layer, or none is given and the network names none.
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
                    f"layers: there is no named set for {type(self._hooked).__name__}; give"
                    f" patterns of names such as {next(names, None)!r}"
                )
        self.layers = match_layers(self._hooked, patterns)

    def __call__(self, x: Tensor, see: Callable[[str, Tensor], None]) -> Tensor:
        """Run the network, calling `see(name, output)` for each chosen layer.

        Args:
            x: As the network takes it, float32, shape (B, C, ...).
            see: Takes outputs (B, C, ...).

        Returns:
            What the network puts out: logits (B, classes), if it is a classifier.

        Raises:
            InputError: x does not fit the network, or a layer puts out nothing usable.
        """

        def arranged(name: str, output: Tensor) -> None:
            last = _channels_last(output, x, self._channels_last)
            see(name, output.movedim(-1, 1) if last else output)

        with hook_layers(self._hooked, self.layers, arranged):
            return evaluate(self.network, x)

    @property
    def identity(self) -> str:
        """All that decides what is shown: the network, its weights, its transform, the layers."""
        transform = getattr(self.network, "transform", None)
        return f"{fingerprint(self.network)} {transform!r} {self._channels_last} {self.layers}"


def evaluate(network: nn.Module, x: Tensor) -> Tensor:
    """Run a network without gradients, in its own precision, whatever the run's is.

    Args:
        network: Takes one tensor and gives one.
        x: Shape (B, C, ...).

    Raises:
        InputError: x does not fit the network, or it puts out something else.
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
            f"network: {type(network).__name__} puts out a {kind}, no tensor; give a module whose"
            " output is its logits"
        )
    return output


def _channels_last(output: Tensor, x: Tensor, otherwise: bool) -> bool:
    """Say whether an output has its channels on the last axis."""
    if output.ndim != x.ndim:
        return output.ndim < x.ndim
    if x.ndim == 4 and x.shape[2] == x.shape[3]:
        before, after = output.shape[1] == output.shape[2], output.shape[2] == output.shape[3]
        if before != after:
            return before
    return otherwise
