"""Outputs of chosen layers of a network, with channels on axis 1."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.io.devices import download
from lit_hier.nn.evaluation import evaluate, floating_type
from lit_hier.nn.fingerprint import fingerprint
from lit_hier.nn.layers import hook_layers, match_layers
from lit_hier.nn.self_check import Checked, check_network, relative_difference

_NUM_VALUES: Final = 1000  # of a layer's output that are stored to recognize a network


class Probe:
    """Runs a network without gradients and passes on the outputs of chosen layers.

    Outputs are passed on with samples on axis 0 and channels on axis 1. Where they are in a
    layer's output is found out, and that it can be measured is proven, on the first samples: see
    `lit_hier.nn.self_check`.

    A network may have the attributes `hooked`, the submodule that layer names refer to;
    `paper_layers`, patterns of the layers that the paper analyses; and `channels_last_layers`,
    which decides for outputs (B, ..., C) where nothing else does.

    Args:
        network: Any module that takes one tensor.
        patterns: Patterns of layer names, see `match_layers`; the network's `paper_layers` by
            default.
        channels_last: Whether channels are on the last axis of the layers' outputs; by default
            that is found out, layer by layer.

    Attributes:
        network: As given, in evaluation mode.
        layers: Names of the chosen layers, in the network's order.
        checked: What the check found of each layer, then of the output; empty before it.

    Raises:
        InputError: A pattern matches no layer, or there is neither a pattern nor `paper_layers`.
    """

    def __init__(
        self,
        network: nn.Module,
        patterns: Sequence[str] | None = None,
        channels_last: bool | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._hooked: nn.Module = getattr(network, "hooked", network)
        self._channels_last = channels_last
        if patterns is None:
            patterns = getattr(network, "paper_layers", ())
            if not patterns:
                names = (name for name, _ in self._hooked.named_modules() if name)
                raise InputError(
                    f"layers: {type(self._hooked).__name__} has no default layers; give patterns"
                    f" of layer names, such as {next(names, None)!r}"
                )
        self.layers = match_layers(self._hooked, patterns)
        self.checked: list[Checked] = []

    def check(self, x: Tensor) -> list[Checked]:
        """Prove on a few samples that the layers can be measured, and find their axes.

        Args:
            x: Samples, shape (B, ...).

        Raises:
            InputError: See `lit_hier.nn.self_check.check_network`.
        """
        self.checked = check_network(
            self.network, self._hooked, self.layers, x, self._channels_last
        )
        return self.checked

    def __call__(self, x: Tensor, callback: Callable[[str, Tensor], None]) -> Tensor:
        """Run the network, calling `callback(name, output)` for each chosen layer.

        Args:
            x: The network's input, shape (B, C, ...); see `evaluate`.
            callback: Receives outputs (B, C, ...), which later layers may change.

        Returns:
            The network's output: logits (B, classes), if it is a classifier.

        Raises:
            InputError: The network rejects x, or a layer's output cannot be used.
        """
        layouts = {layer.name: layer.layout for layer in self.checked or self.check(x)}

        def with_channels_first(name: str, output: Tensor) -> None:
            callback(name, layouts[name](output))

        with hook_layers(self._hooked, self.layers, with_channels_first):
            return evaluate(self.network, x)

    def sign(self, x: Tensor) -> list[Tensor]:
        """Summarize the layers' outputs for a few samples, to recognize the network by them.

        Args:
            x: Samples, shape (B, ...).

        Returns:
            For each layer the mean of every channel, its mean square and some single values,
            float64, in one dimension, on the CPU.
        """
        signs: dict[str, Tensor] = {}

        def summarize(name: str, output: Tensor) -> None:
            values = output.double().flatten(2) if output.ndim > 2 else output.double()[..., None]
            some = values.flatten()[:: max(1, values.numel() // _NUM_VALUES)]
            moments = [values.mean((0, 2)), values.square().mean((0, 2))]
            signs[name] = torch.cat((*moments, some))

        self(x, summarize)
        return download([signs[name] for name in self.layers])

    def recognizes(self, x: Tensor, signs: Sequence[Tensor]) -> bool:
        """Return whether `sign` gives the same as before, but for rounding."""
        found = self.sign(x)
        tolerance = math.sqrt(torch.finfo(floating_type(self.network)).eps)
        return [len(sign) for sign in found] == [len(sign) for sign in signs] and all(
            relative_difference(*pair) <= tolerance for pair in zip(found, signs, strict=True)
        )

    @property
    def identity(self) -> str:
        """All that determines the outputs, as text: network, weights, transform, layers, axes."""
        transform = getattr(self.network, "transform", None)
        layouts = [(layer.name, *layer.layout) for layer in self.checked]
        told = self._channels_last
        return f"{fingerprint(self.network)} {transform!r} {told} {self.layers} {layouts}"
